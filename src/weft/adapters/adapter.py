"""The trained artifact: LoRA factors, modules saved whole, and a manifest; a valid PEFT folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveInt, field_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from weft.adapters.lora import LoraLinear
from weft.artifacts.atomic import new_directory, read_json, write_json
from weft.artifacts.hashing import hash_arrays
from weft.data.source import checked
from weft.errors import WeftError

PREFIX = "base_model.model."
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
MANIFEST = "weft.json"
HASH, SCALING = "weights_hash", "scaling"  # entries of the manifest that belong to the files


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

    `manifest` carries at least `backbone` {name, fingerprint}, and what else is known:
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
    """Add every ΔW to the model's weights, in float32, stored in the weight's own dtype.

    Tensors saved whole replace the model's. A module or tensor that does not fit is a
    `WeftError`, and the model is then as it was.
    """
    sums: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        for name, factors in adapter.factors.items():
            weight = _weight_of(model, name, (factors.b.shape[0], factors.a.shape[1]))
            sums.append((weight, weight.float() + factors.delta().to(weight.device)))
        for name, tensor in adapter.saved.items():
            module, _, _ = name.rpartition(".")
            sums.append((_tensor_of(model, module, name, tuple(tensor.shape)), tensor))
        for own, value in sums:
            own.copy_(value)


def _weight_of(model: nn.Module, module: str, shape: tuple[int, ...]) -> Tensor:
    """A linear's weight [out, in]."""
    weight = _tensor_of(model, module, f"{module}.weight", shape)
    if not isinstance(model.get_submodule(module), nn.Linear | LoraLinear):
        raise WeftError(f"the adapter's module '{module}' is not a linear one in the backbone")
    return weight


def _tensor_of(model: nn.Module, module: str, name: str, shape: tuple[int, ...]) -> Tensor:
    try:
        tensor = model.get_parameter(name)
    except AttributeError:
        raise WeftError(f"the adapter has a module '{module}' that the backbone lacks") from None
    if tuple(tensor.shape) != shape:
        raise WeftError(
            f"the adapter's module '{module}' has the shape {list(shape)}, "
            f"the backbone's {list(tensor.shape)}"
        )
    return tensor


def _alpha(factors: Factors) -> float:
    alpha = factors.scaling * factors.rank
    return int(alpha) if float(alpha).is_integer() else alpha


def _peft_config(adapter: Adapter) -> dict[str, Any]:
    if not adapter.factors:
        raise WeftError("an adapter without LoRA factors can't be written as a PEFT folder")
    ranks = {name: f.rank for name, f in adapter.factors.items()}
    alphas = {name: _alpha(f) for name, f in adapter.factors.items()}
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
        # PEFT reads the keys as regular expressions for the end of a name, first match first.
        "rank_pattern": {f"^{re.escape(n)}": r for n, r in ranks.items() if r != rank},
        "alpha_pattern": {f"^{re.escape(n)}": a for n, a in alphas.items() if a != alpha},
        "modules_to_save": sorted({n.rpartition(".")[0] for n in adapter.saved}) or None,
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
    # α/r does not always round to the very scaling that α was made from: keep those exactly.
    inexact = {n: f.scaling for n, f in adapter.factors.items() if _alpha(f) / f.rank != f.scaling}
    manifest = {k: v for k, v in adapter.manifest.items() if k not in (HASH, SCALING)}
    manifest |= {SCALING: inexact} if inexact else {}
    write_json(folder / MANIFEST, manifest | {HASH: adapter.weights_hash})


def save_adapter(adapter: Adapter, path: Path) -> None:
    """Write a PEFT adapter folder, whole or not at all; an existing folder is an error."""
    with new_directory(path) as folder:
        write_adapter(adapter, folder)


def load_adapter(path: Path) -> Adapter:
    """Read an adapter folder written by weft or PEFT.

    A folder without `weft.json` (from PEFT itself) has no fingerprint and is refused, as nothing
    could stop it from being put on another backbone.
    """
    path = Path(path)
    if not path.is_dir():
        raise WeftError(f"{path} is not an adapter folder")
    config = _read_config(path / CONFIG)
    manifest = _read_manifest(path / MANIFEST)
    try:
        tensors = load_file(path / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise WeftError(f"{path / WEIGHTS} can't be read: {error}") from None
    tensors = {key.removeprefix(PREFIX): tensor for key, tensor in tensors.items()}
    factors = _factors(tensors, config, manifest.get(SCALING, {}), path / WEIGHTS)
    saved = {name: tensor for name, tensor in tensors.items() if ".lora_" not in name}
    adapter = Adapter(factors, manifest, saved)
    stated = manifest.get(HASH)
    if stated is not None and stated != adapter.weights_hash:
        raise WeftError(f"{path / WEIGHTS} is not what {MANIFEST} says ({HASH} differs)")
    return adapter


class _Said(BaseModel):
    """What a file must say where it says it; PEFT and weft have more entries."""

    model_config = ConfigDict(extra="ignore", strict=True)


class _Config(_Said):
    """The entries of a PEFT configuration that decide ΔW."""

    r: PositiveInt = 8
    lora_alpha: FiniteFloat = 8
    rank_pattern: dict[str, PositiveInt] | None = None
    alpha_pattern: dict[str, FiniteFloat] | None = None
    use_rslora: bool = False

    @field_validator("rank_pattern", "alpha_pattern")
    @classmethod
    def _are_patterns(cls, patterns: dict[str, Any] | None) -> dict[str, Any] | None:
        for pattern in patterns or {}:
            try:
                _pattern(pattern)
            except re.error as error:
                raise ValueError(f"'{pattern}' is no regular expression ({error})") from None
        return patterns


class _NamedBackbone(_Said):
    name: str = Field(min_length=1)
    fingerprint: str = Field(min_length=1)


class _Manifest(_Said):
    """The entries of weft.json that weft itself reads."""

    backbone: _NamedBackbone
    domains: list[str] = []
    data: dict[str, str] = {}
    recommender: dict[str, Any] | None = None
    scaling: dict[str, FiniteFloat] = {}
    weights_hash: str | None = None


def _read_object(path: Path) -> dict[str, Any]:
    values = read_json(path)
    if not isinstance(values, dict):
        raise WeftError(f"{path} holds no JSON object")
    return values


def _read_config(path: Path) -> _Config:
    """A PEFT configuration whose delta is B A and nothing more."""
    config = _read_object(path)
    if config.get("peft_type") != "LORA":
        raise WeftError(f"{path}: peft_type is {config.get('peft_type', 'missing')}, not LORA")
    if config.get("use_dora"):
        raise WeftError(f"{path}: DoRA adapters are not supported (use_dora)")
    start = str(config.get("init_lora_weights", True)).lower()
    if start.startswith(("pissa", "olora", "corda", "loftq")):
        raise WeftError(f"{path}: adapters that change the backbone ({start}) are not supported")
    try:
        return checked(_Config, config)
    except WeftError as error:
        raise WeftError(f"{path}: {error}") from None


def _read_manifest(path: Path) -> dict[str, Any]:
    manifest = _read_object(path)
    try:
        checked(_Manifest, {"backbone": {}, **manifest})
    except WeftError as error:
        raise WeftError(f"{path}: {error}") from None
    return manifest


def _factors(
    tensors: Mapping[str, Tensor],
    config: _Config,
    exact: Mapping[str, float],
    file: Path,
) -> dict[str, Factors]:
    """Module -> factors; every LoRA tensor of the file must be one half of a fitting pair."""
    factors: dict[str, Factors] = {}
    for name in tensors:
        module, found, part = name.partition(".lora_")
        if not found:
            continue
        if part not in ("A.weight", "B.weight"):
            raise WeftError(f"{file}: the tensor '{name}' is not of plain LoRA on a linear")
        a, b = (tensors.get(f"{module}.lora_{half}.weight") for half in "AB")
        if a is None or b is None:
            there, missing = ("lora_B", "lora_A") if a is None else ("lora_A", "lora_B")
            raise WeftError(f"{file}: '{module}' has {there} but no {missing}")
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
            raise WeftError(
                f"{file}: the factors of '{module}', {list(a.shape)} and {list(b.shape)}, don't fit"
            )
        if not a.shape[0]:
            raise WeftError(f"{file}: the factors of '{module}' are empty (rank 0)")
        scaling = _scaling(config, module, a.shape[0])
        stated = exact.get(module, scaling)
        close = abs(stated - scaling) <= 1e-12 * abs(scaling)
        factors[module] = Factors(a.float(), b.float(), stated if close else scaling)
    return factors


def _pattern(text: str) -> re.Pattern[str]:
    """As PEFT reads it: the end of a module's name."""
    return re.compile(rf"(.*\.)?({text})$")


def _scaling(config: _Config, module: str, rank: int) -> float:
    """α/r, or α/√r with rsLoRA; of the patterns that match, the first counts."""
    alpha = config.lora_alpha
    for pattern, value in (config.alpha_pattern or {}).items():
        if _pattern(pattern).match(module):
            alpha = value
            break
    return float(alpha) / (rank**0.5 if config.use_rslora else rank)
