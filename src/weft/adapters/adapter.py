"""The trained artifact: LoRA factors, modules saved whole, and a manifest; a valid PEFT folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from weft.adapters.lora import LoraLinear
from weft.artifacts.atomic import new_directory, read_json, write_json
from weft.artifacts.hashing import hash_arrays
from weft.errors import WeftError

PREFIX = "base_model.model."
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
MANIFEST = "weft.json"


@dataclass(frozen=True, eq=False)
class Factors:
    """One module's delta: ΔW = scaling · B A, with A [r, in] and B [out, r] float32."""

    a: Tensor
    b: Tensor
    scaling: float

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    def delta(self) -> Tensor:
        """ΔW [out, in] float32."""
        return self.scaling * (self.b @ self.a)


@dataclass(frozen=True, eq=False)
class Adapter:
    """Module name -> factors; `saved` holds tensors of modules saved whole, by full name.

    `manifest` carries at least `backbone` {name, fingerprint}; see DESIGN's artifact contract:
    domains, data hash, branch, seed, parents, merge recipe, versions.
    """

    factors: Mapping[str, Factors]
    manifest: dict[str, Any]
    saved: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def weights_hash(self) -> str:
        """Hash of every tensor and scaling, whatever the folder they came from."""
        arrays = {f"{n}.a": f.a.numpy() for n, f in self.factors.items()}
        arrays |= {f"{n}.b": f.b.numpy() for n, f in self.factors.items()}
        arrays |= {f"saved.{n}": t.float().numpy() for n, t in self.saved.items()}
        return hash_arrays(arrays, {n: f.scaling for n, f in self.factors.items()})

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the backbone that this adapter belongs to."""
        return str(self.manifest["backbone"]["fingerprint"])


def from_attached(attached: Mapping[str, LoraLinear], manifest: dict[str, Any]) -> Adapter:
    """Copy the factors out of a model's LoRA linears."""
    factors = {
        name: Factors(
            linear.a.detach().cpu().float().clone(),
            linear.b.detach().cpu().float().clone(),
            linear.scaling,
        )
        for name, linear in attached.items()
    }
    return Adapter(factors, manifest)


def check_backbone(adapter: Adapter, name: str, fingerprint: str) -> None:
    """An adapter of another backbone is an error that names both."""
    if adapter.fingerprint != fingerprint:
        own = adapter.manifest["backbone"]
        raise WeftError(
            f"the adapter belongs to backbone {own.get('name')} ({adapter.fingerprint[:12]}…), "
            f"not to {name} ({fingerprint[:12]}…)"
        )


def fold(model: nn.Module, adapter: Adapter) -> None:
    """Add every ΔW to the model's weights, in float32, stored in the weight's own dtype."""
    for name, factors in adapter.factors.items():
        try:
            weight = model.get_submodule(name).weight
        except AttributeError:
            raise WeftError(f"the adapter has a module '{name}' that the backbone lacks") from None
        if not isinstance(weight, Tensor) or tuple(weight.shape) != (
            factors.b.shape[0],
            factors.a.shape[1],
        ):
            raise WeftError(
                f"the adapter's module '{name}' has another shape than the backbone's weight"
            )
        with torch.no_grad():
            weight.copy_(weight.float() + factors.delta().to(weight.device))


def _peft_config(adapter: Adapter) -> dict[str, Any]:
    ranks = {name: f.rank for name, f in adapter.factors.items()}
    alphas = {name: f.scaling * f.rank for name, f in adapter.factors.items()}
    rank = max(ranks.values())
    alpha = max(alphas.values())
    return {
        "peft_type": "LORA",
        "task_type": "FEATURE_EXTRACTION",
        "base_model_name_or_path": adapter.manifest["backbone"]["name"],
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": list(ranks),
        "rank_pattern": {n: r for n, r in ranks.items() if r != rank},
        "alpha_pattern": {n: a for n, a in alphas.items() if a != alpha},
        "use_rslora": False,
        "use_dora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def write_adapter(adapter: Adapter, folder: Path) -> None:
    """Write an adapter's three files into an existing folder."""
    tensors = {f"{PREFIX}{n}.lora_A.weight": f.a.contiguous() for n, f in adapter.factors.items()}
    tensors |= {f"{PREFIX}{n}.lora_B.weight": f.b.contiguous() for n, f in adapter.factors.items()}
    tensors |= {f"{PREFIX}{n}": t.contiguous() for n, t in adapter.saved.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    write_json(folder / CONFIG, _peft_config(adapter))
    write_json(folder / MANIFEST, adapter.manifest | {"weights_hash": adapter.weights_hash})


def save_adapter(adapter: Adapter, path: Path) -> None:
    """Write a PEFT adapter folder, whole or not at all; an existing folder is an error."""
    with new_directory(path) as folder:
        write_adapter(adapter, folder)


def _refuse_unsupported(config: dict[str, Any], path: Path) -> None:
    if config.get("peft_type") != "LORA":
        raise WeftError(f"{path / CONFIG}: peft_type is {config.get('peft_type')}, not LORA")
    if config.get("use_dora"):
        raise WeftError(f"{path / CONFIG}: DoRA adapters are not supported (use_dora)")


def _scaling(config: dict[str, Any], name: str, rank: int) -> float:
    alpha = config["lora_alpha"]
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if name == pattern or name.endswith("." + pattern):
            alpha = value
    return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)


def load_adapter(path: Path) -> Adapter:
    """Read an adapter folder written by weft or PEFT.

    A folder without `weft.json` (from PEFT itself) has no fingerprint and is refused, as nothing
    could stop it from being put on another backbone.
    """
    path = Path(path)
    if not path.is_dir():
        raise WeftError(f"{path} is not an adapter folder")
    config = read_json(path / CONFIG)
    manifest = read_json(path / MANIFEST)
    _refuse_unsupported(config, path)
    try:
        tensors = load_file(path / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise WeftError(f"{path / WEIGHTS} can't be read: {error}") from None
    factors: dict[str, Factors] = {}
    saved: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = key.removeprefix(PREFIX)
        if name.endswith(".lora_A.weight"):
            module = name.removesuffix(".lora_A.weight")
            other = tensors.get(f"{PREFIX}{module}.lora_B.weight")
            if other is None:
                raise WeftError(f"{path / WEIGHTS}: '{module}' has lora_A but no lora_B")
            scaling = _scaling(config, module, tensor.shape[0])
            factors[module] = Factors(tensor.float(), other.float(), scaling)
        elif not name.endswith(".lora_B.weight"):
            saved[name] = tensor
    adapter = Adapter(factors, manifest, saved)
    stated = manifest.get("weights_hash")
    if stated is not None and stated != adapter.weights_hash:
        raise WeftError(f"{path / WEIGHTS} is not what {MANIFEST} says (weights_hash differs)")
    return adapter
