"""An adapter as a folder that PEFT loads: weights, configuration, and weft's manifest."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveInt, field_validator
from torch import Tensor

from weft.adapters.adapter import MANIFEST, Adapter
from weft.adapters.factors import Factors, FactorShape, Half, LazyFactors, LazyTensors
from weft.adapters.tensor_file import TensorFile, open_tensors, write_tensors
from weft.artifacts.atomic import new_directory, read_json, write_json
from weft.data.source import checked
from weft.errors import WeftError

PREFIX = "base_model.model."
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
HASH, SCALING = "weights_hash", "scaling"  # entries of the manifest that belong to the files
_CHANGED = (  # entries of PEFT's configuration with which ΔW, or what it is added to, is another
    "fan_in_fan_out",
    "use_qalora",
    "use_bdlora",
    "kasa_config",
    "alora_invocation_tokens",
    "layer_replication",
    "target_parameters",
)


def _alpha(factors: FactorShape) -> float:
    alpha = factors.scaling * factors.rank
    return int(alpha) if float(alpha).is_integer() else alpha


def _peft_config(adapter: Adapter) -> dict[str, Any]:
    if not adapter.factors:
        raise WeftError("an adapter without LoRA factors can't be written as a PEFT folder")
    ranks = {name: shape.rank for name, shape in adapter.shapes.items()}
    alphas = {name: _alpha(shape) for name, shape in adapter.shapes.items()}
    rank = max(ranks.values())
    alpha = max(alphas.values())
    return {
        "peft_type": "LORA",
        "task_type": adapter.manifest["backbone"].get("task", "FEATURE_EXTRACTION"),
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


def write_adapter(adapter: Adapter, folder: Path, *, dtype: torch.dtype | None = None) -> None:
    """Write an adapter's three files into an existing folder.

    Factors are stored in float32 or rounded to `dtype`; what is rounded is also what is hashed.
    """
    config = _peft_config(adapter)
    rounded = adapter if dtype is None else _rounded(adapter, dtype)
    halves: dict[str, tuple[str, Half]] = {}
    plan: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    for name, shape in rounded.shapes.items():
        for key, half, size in _halves(name, shape):
            halves[key] = (name, half)
            plan[key] = (dtype or torch.float32, size)
    for name, tensor in rounded.saved.items():
        plan[PREFIX + name] = (tensor.dtype, tuple(tensor.shape))

    def read(key: str) -> Tensor:
        if key in halves:
            return rounded.half(*halves[key])
        return rounded.saved[key.removeprefix(PREFIX)]

    write_tensors(folder / WEIGHTS, plan, read)
    write_json(folder / CONFIG, config)
    # α/r does not always round to the very scaling that α was made from: keep those exactly.
    inexact = {n: s.scaling for n, s in rounded.shapes.items() if _alpha(s) / s.rank != s.scaling}
    manifest = {k: v for k, v in adapter.manifest.items() if k not in (HASH, SCALING)}
    manifest |= {SCALING: inexact} if inexact else {}
    write_json(folder / MANIFEST, manifest | {HASH: rounded.weights_hash})


def _halves(name: str, shape: FactorShape) -> list[tuple[str, Half, tuple[int, int]]]:
    """The two tensors of a module: name in the file, half, shape."""
    return [
        (f"{PREFIX}{name}.lora_A.weight", "a", (shape.rank, shape.inside)),
        (f"{PREFIX}{name}.lora_B.weight", "b", (shape.out, shape.rank)),
    ]


def _rounded(adapter: Adapter, dtype: torch.dtype) -> Adapter:
    """The adapter with factors rounded to `dtype` whenever they are read (float32 again)."""
    said = str(dtype).removeprefix("torch.")
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise WeftError(f"factors are stored as float32, bfloat16 or float16, not as {said}")

    def half(module: str, half: Half) -> Tensor:
        values = adapter.half(module, half).to(dtype).float()
        if not torch.isfinite(values).all():
            raise WeftError(f"the factors of '{module}' are too large for {said}")
        return values

    return Adapter(LazyFactors(adapter.shapes, half), adapter.manifest, adapter.saved)


def save_adapter(adapter: Adapter, path: Path, *, dtype: torch.dtype | None = None) -> None:
    """Write a PEFT adapter folder, whole or not at all; an existing folder is an error.

    Factors are stored in float32, or rounded to `dtype` (bfloat16, float16).
    """
    with new_directory(path) as folder:
        write_adapter(adapter, folder, dtype=dtype)


def load_adapter(path: Path, *, lazy: bool = False) -> Adapter:
    """Read an adapter folder written by weft or PEFT.

    A folder from PEFT itself has no `weft.json`, so no fingerprint: its backbone is known by the
    name in its configuration alone. It merges with adapters of the same stated name, but can't be
    put on a backbone, as nothing says that it is the right one. With `lazy`, factors and tensors are read
    from the file each time they are asked for and take no memory; the hash that the manifest
    states is still checked at once, in one pass over the file.
    """
    path = Path(path)
    if not path.is_dir():
        raise WeftError(f"{path} is not an adapter folder")
    config = _read_config(path / CONFIG)
    manifest = _manifest_in(path, config)
    file = open_tensors(path / WEIGHTS)
    shapes, whole = _shapes(file, config, manifest.get(SCALING, {}))

    def half(module: str, half: Half) -> Tensor:
        return file.read(whole[f"{module}.lora_{half.upper()}.weight"]).float()

    kept = tuple(name for name in whole if ".lora_" not in name)
    factors: Mapping[str, Factors] = LazyFactors(shapes, half)
    saved: Mapping[str, Tensor] = LazyTensors(kept, lambda name: file.read(whole[name]))
    if not lazy:
        factors, saved = dict(factors), dict(saved)
    adapter = Adapter(factors, manifest, saved)
    stated = manifest.get(HASH)
    if stated is not None and stated != adapter.weights_hash:
        raise WeftError(f"{path / WEIGHTS} is not what {MANIFEST} says ({HASH} differs)")
    return adapter


def load_adapters(
    paths: Sequence[Path], *, lazy: bool = True, threads: int | None = None
) -> list[Adapter]:
    """Several adapters, in the order of their paths; hashes are checked side by side."""
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        return list(pool.map(lambda path: load_adapter(path, lazy=lazy), paths))


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
    base_model_name_or_path: str | None = None

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
    for entry in _CHANGED:
        if config.get(entry):
            raise WeftError(f"{path}: ΔW is not plain B A, which is not supported ({entry})")
    start = str(config.get("init_lora_weights", True)).lower()
    if start.startswith(("pissa", "olora", "corda", "loftq", "lora_ga")):
        raise WeftError(f"{path}: adapters that change the backbone ({start}) are not supported")
    try:
        return checked(_Config, config)
    except WeftError as error:
        raise WeftError(f"{path}: {error}") from None


def _manifest_in(folder: Path, config: _Config) -> dict[str, Any]:
    """What `weft.json` says; without one, what PEFT's own configuration says."""
    name = config.base_model_name_or_path
    if (folder / MANIFEST).exists():
        return _read_manifest(folder / MANIFEST)
    if not name:
        raise WeftError(
            f"{folder / CONFIG} names no backbone (base_model_name_or_path), "
            f"and there is no {MANIFEST} that does"
        )
    return {"backbone": {"name": name, "fingerprint": f"name:{name}"}}


def _read_manifest(path: Path) -> dict[str, Any]:
    manifest = _read_object(path)
    try:
        checked(_Manifest, {"backbone": {}, **manifest})
    except WeftError as error:
        raise WeftError(f"{path}: {error}") from None
    return manifest


def _shapes(
    file: TensorFile, config: _Config, exact: Mapping[str, float]
) -> tuple[dict[str, FactorShape], dict[str, str]]:
    """Module -> shape, and name without prefix -> name in the file.

    Every LoRA tensor of the file must be one half of a fitting pair.
    """
    whole = {name.removeprefix(PREFIX): name for name in file.tensors}
    places = {name: file.tensors[key] for name, key in whole.items()}
    shapes: dict[str, FactorShape] = {}
    for name in places:
        module, found, part = name.partition(".lora_")
        if not found:
            continue
        if part not in ("A.weight", "B.weight"):
            raise WeftError(f"{file.path}: the tensor '{name}' is not of plain LoRA on a linear")
        a, b = (places.get(f"{module}.lora_{half}.weight") for half in "AB")
        if a is None or b is None:
            there, missing = ("lora_B", "lora_A") if a is None else ("lora_A", "lora_B")
            raise WeftError(f"{file.path}: '{module}' has {there} but no {missing}")
        if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
            raise WeftError(
                f"{file.path}: the factors of '{module}', {list(a.shape)} and {list(b.shape)}, "
                "don't fit"
            )
        rank = a.shape[0]
        if not rank:
            raise WeftError(f"{file.path}: the factors of '{module}' are empty (rank 0)")
        scaling = _scaling(config, module, rank)
        stated = exact.get(module, scaling)
        close = abs(stated - scaling) <= 1e-12 * abs(scaling)
        shapes[module] = FactorShape(b.shape[0], a.shape[1], rank, stated if close else scaling)
    return shapes, whole


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
