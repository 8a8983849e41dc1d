"""Writing an adapter as a folder that PEFT loads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weft.adapters.adapter import MANIFEST, Adapter
from weft.adapters.contents import PREFIX, TOKENS
from weft.adapters.factors import FactorShape, Half, LazyFactors
from weft.adapters.header import saved_ends
from weft.adapters.peft_format import CONFIG, HASH, SCALING, WEIGHTS
from weft.adapters.tensor_file import write_tensors
from weft.artifacts.atomic import new_directory, write_json
from weft.errors import DataError, SettingError


def _alpha(factors: FactorShape) -> float:
    alpha = factors.scaling * factors.rank
    return int(alpha) if float(alpha).is_integer() else alpha


def _peft_config(adapter: Adapter) -> dict[str, Any]:
    if not adapter.factors:
        raise DataError("an adapter without LoRA factors can't be written as a PEFT folder")
    ranks = {name: shape.rank for name, shape in adapter.shapes.items()}
    alphas = {name: _alpha(shape) for name, shape in adapter.shapes.items()}
    rank = max(ranks.values())
    alpha = max(alphas.values())
    header = adapter.header
    return {
        "peft_type": "LORA",
        "task_type": header.task_type,
        "auto_mapping": None if header.auto_mapping is None else dict(header.auto_mapping),
        "base_model_name_or_path": adapter.manifest["backbone"]["name"],
        "revision": header.revision,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": list(ranks),
        # PEFT reads the keys as regular expressions for the end of a name, first match first.
        "rank_pattern": {f"^{re.escape(n)}": r for n, r in ranks.items() if r != rank},
        "alpha_pattern": {f"^{re.escape(n)}": a for n, a in alphas.items() if a != alpha},
        "modules_to_save": saved_ends(
            header, list(adapter.saved), (*adapter.biases, *adapter.carried)
        ),
        "trainable_token_indices": _token_indices(adapter),
        "ensure_weight_tying": header.ensure_weight_tying,
        "use_rslora": False,
        "use_dora": False,
        "bias": header.bias,
        "fan_in_fan_out": header.fan_in_fan_out,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _token_indices(adapter: Adapter) -> list[int] | dict[str, list[int]] | None:
    indices = {module: list(one.indices) for module, one in adapter.tokens.items()}
    if adapter.header.token_list and len(indices) == 1:
        return next(iter(indices.values()))
    return indices or None


def write_adapter(adapter: Adapter, folder: Path, *, dtype: torch.dtype | None = None) -> None:
    """Write an adapter's three files into an existing folder.

    Factors are stored in float32 or rounded to `dtype`; what is rounded is also what is hashed.
    """
    config = _peft_config(adapter)
    stored = adapter if dtype is None else rounded(adapter, dtype)
    halves: dict[str, tuple[str, Half]] = {}
    plan: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    for name, shape in stored.shapes.items():
        for key, half, size in _halves(name, shape):
            halves[key] = (name, half)
            plan[key] = (dtype or torch.float32, size)
    whole = _whole(stored)
    plan |= {key: (tensor.dtype, tuple(tensor.shape)) for key, tensor in whole.items()}

    def read(key: str) -> Tensor:
        return stored.half(*halves[key]) if key in halves else whole[key]

    write_tensors(folder / WEIGHTS, plan, read)
    write_json(folder / CONFIG, config)
    # α/r does not always round to the very scaling that α was made from: keep those exactly.
    inexact = {n: s.scaling for n, s in stored.shapes.items() if _alpha(s) / s.rank != s.scaling}
    manifest = {k: v for k, v in adapter.manifest.items() if k not in (HASH, SCALING)}
    manifest |= {SCALING: inexact} if inexact else {}
    write_json(folder / MANIFEST, manifest | {HASH: stored.weights_hash})


def _whole(adapter: Adapter) -> Mapping[str, Tensor]:
    """Name in the file -> tensor of all that is no factor. A targeted linear's own bias and weight
    lie, for PEFT, in the layer that it wraps."""
    tensors: dict[str, Tensor] = {}
    of_linears = {*adapter.biases, *adapter.carried}
    for name, tensor in adapter.saved.items():
        module, _, last = name.rpartition(".")
        inside = name in of_linears and module in adapter.factors
        tensors[PREFIX + (f"{module}.base_layer.{last}" if inside else name)] = tensor
    return tensors | {PREFIX + name + TOKENS: one.rows for name, one in adapter.tokens.items()}


def _halves(name: str, shape: FactorShape) -> list[tuple[str, Half, tuple[int, int]]]:
    """The two tensors of a module: name in the file, half, shape."""
    return [
        (f"{PREFIX}{name}.lora_A.weight", "a", (shape.rank, shape.inside)),
        (f"{PREFIX}{name}.lora_B.weight", "b", (shape.out, shape.rank)),
    ]


def check_factor_dtype(dtype: torch.dtype | None) -> None:
    """A `SettingError` unless factors can be stored so; None is float32."""
    if dtype not in (None, torch.float32, torch.bfloat16, torch.float16):
        kind = str(dtype).removeprefix("torch.")
        raise SettingError(f"factors are stored as float32, bfloat16 or float16, not as {kind}")


def rounded(adapter: Adapter, dtype: torch.dtype) -> Adapter:
    """The adapter with factors rounded to `dtype` whenever they are read (float32 again)."""
    check_factor_dtype(dtype)
    kind = str(dtype).removeprefix("torch.")

    def half(module: str, half: Half) -> Tensor:
        values = adapter.half(module, half).to(dtype).float()
        if not torch.isfinite(values).all():
            raise DataError(f"the factors of '{module}' are too large for {kind}")
        return values

    return replace(adapter, factors=LazyFactors(adapter.shapes, half), dtype=dtype)


def save_adapter(adapter: Adapter, path: Path | str, *, dtype: torch.dtype | None = None) -> None:
    """Write a PEFT adapter folder, whole or not at all; an existing folder is an error.

    Factors are stored in float32, or rounded to `dtype` (bfloat16, float16). The folder loads in
    plain PEFT.

    >>> import tempfile
    >>> from weft.adapters import Factors
    >>> factors = Factors(a=torch.ones(1, 3), b=torch.ones(2, 1), scaling=0.5)
    >>> adapter = Adapter({"layer.0.query": factors}, {"backbone": {"name": "tiny"}})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_adapter(adapter, Path(folder) / "toys")
    ...     sorted(path.name for path in (Path(folder) / "toys").iterdir())
    ['adapter_config.json', 'adapter_model.safetensors', 'weft.json']
    """
    with new_directory(Path(path)) as folder:
        write_adapter(adapter, folder, dtype=dtype)
