"""Weights stored as codes, whose numbers mean nothing without scales that lie beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from weft.artifacts.atomic import read_json
from weft.backbones.files import CONFIG
from weft.errors import DataError, SettingError
from weft.merging.checkpoints.checkpoint import Checkpoint
from weft.merging.checkpoints.source_files import checkpoint_of
from weft.merging.engine.source import Spec, TensorSource

_KEYS = ("quantization_config", "compression_config", "quantization")
_DECLARE: Mapping[str, str] = {
    "hf_quant_config.json": "ModelOpt",
    "quantize_config.json": "GPTQ",
    "quant_config.json": "AWQ or HQQ",
    "quanto_qmap.json": "quanto",
    "quantization_map.json": "quanto",
    "quantize.json": "quantised",
}
"""Files that only quantised models have."""

# Names that only tensors beside codes have, in each library's format.
_COMPANION = re.compile(
    r"(?:^|\.)(?:weight|kernel|\w+_proj)_"  # compressed-tensors, ModelOpt, torchao, MXFP4
    r"(?:scales?|scale_inv|scale_\d|zero_points?|global_scale|packed|qdata|g_idx|blocks)$"
    r"|(?:^|\.)(?:qweight|qzeros|SCB|Qidxs|W_q|weight_format)$"  # GPTQ, AWQ, LLM.int8, QuIP#, HQQ
    r"|\.(?:nested_)?(?:absmax|quant_map)$|\.quant_state\."  # bitsandbytes
    r"|\.weight\._(?:data|scale|shift)$|(?:weight|input|output)_quantizer\."  # quanto, ModelOpt
)
_CODES = re.compile(r"(?:^|[._])(?:q?weight|kernel|packed|blocks|codes|W_q|Qidxs|qdata)$")
_BESIDE = re.compile(  # what means scales only beside codes
    r"(?:^|\w_)(?:scales?(?:_inv|_\d|_weight|_input)?|zeros?|zero_points?|absmax|amax|codebooks?"
    r"|g_idx|centroids?|lut|SCB)$"
)
_FACTOR = re.compile(  # of PEFT, diffusers, kohya and LyCORIS
    r"\.lora_(?:embedding_)?[AB](?:\.|$)|[._]lora[._](?:up|down)(?:\.|$)|[._]hada_w[12]_[ab]$"
    r"|[._]lokr_w[12](?:_[ab])?$"
)
_FLOAT8 = tuple(
    getattr(torch, name)
    for name in ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")
)


def check_plain(source: TensorSource, dtype: torch.dtype | None = None) -> None:
    """A `WeftError` for a source of quantised weights, which names the tensor and what its numbers
    need, or the file that declares it.

    Weights in float8 with nothing beside them are numbers as they are; merged ones would lose most
    of their digits when stored so again, so the `dtype` of the result must be stated.
    """
    factor = next((name for name in source.specs if _FACTOR.search(name)), None)
    if factor is not None:
        raise DataError(
            f"tensor '{factor}' of {source.label} is a factor of an adapter, which means nothing "
            "without the other one: name the adapter's folder, with its adapter_config.json"
        )
    coded = _quantised(source.specs)
    if coded is not None:
        raise DataError(_sentence(source, *coded))
    checkpoint = checkpoint_of(source)
    if checkpoint is not None:
        _check_declared(source.label, checkpoint)
    for name, spec in source.specs.items():
        if spec.dtype in _FLOAT8 and (dtype is None or dtype.itemsize == 1):
            kind = str(spec.dtype).removeprefix("torch.")
            raise SettingError(
                f"tensor '{name}' of {source.label} is {kind}, with no scale beside it: say in "
                "which dtype the result is stored (--dtype bfloat16)"
            )


def check_numbers(source: TensorSource, name: str) -> None:
    """A `WeftError` unless one tensor, which is read by itself, is of plain numbers."""
    dtype = source.specs[name].dtype
    if not dtype.is_floating_point or dtype.itemsize == 1:
        raise DataError(
            f"tensor '{name}' of {source.label} is {str(dtype).removeprefix('torch.')}, codes of "
            "quantised weights: name the model as it was before it was quantised (--base)"
        )


def _check_declared(label: str, checkpoint: Checkpoint) -> None:
    for path, config in _configs(checkpoint):
        for key in _KEYS:
            inner = config.get("text_config")
            if config.get(key) or (isinstance(inner, dict) and inner.get(key)):
                named = "" if path == CONFIG else f"{path}: "
                raise DataError(f"{label} is quantised ({named}{key}) and can't be merged")
    home = checkpoint.home
    for name, whose in _DECLARE.items():
        if home is not None and (home / name).is_file():
            raise DataError(f"{label} is quantised ({name}, of {whose}) and can't be merged")


def _configs(checkpoint: Checkpoint) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The configuration of the model, also of one whose weight file alone was named."""
    config: Any = checkpoint.config
    home = checkpoint.home
    if config is None and home is not None and (home / CONFIG).is_file():
        config = read_json(home / CONFIG)
    if isinstance(config, dict):
        yield CONFIG, config


def _sentence(source: TensorSource, name: str, beside: str | None) -> str:
    checkpoint = checkpoint_of(source)
    inside = checkpoint is not None and name in checkpoint.specs
    where = source.label
    if checkpoint is not None and inside:
        where = f"{where} ({checkpoint.file_of(name).name})"
    without = "scales" if beside is None else f"'{beside}'"
    return (
        f"tensor '{name}' of {where} is of quantised weights: its numbers mean nothing without "
        f"{without}, so they can't be merged; merge the model as it was before it was quantised"
    )


def _quantised(specs: Mapping[str, Spec]) -> tuple[str, str | None] | None:
    """(a tensor of codes, what its numbers need), or (a tensor of scales, None); None if plain."""
    modules: dict[str, list[str]] = {}
    for name in specs:
        modules.setdefault(name.rpartition(".")[0], []).append(name)
    for name, spec in specs.items():
        siblings = [one for one in modules[name.rpartition(".")[0]] if one != name]
        if _is_coded(name, spec):
            beside = _beside(name, [*siblings, *modules.get(name, ())])
            if beside is not None or not _may_be_plain(name, spec):
                return name, beside
        elif _COMPANION.search(name):
            return _codes_of(name, specs, siblings)
    return None


def _is_coded(name: str, spec: Spec) -> bool:
    """Whether a tensor's dtype is one of codes: float8, or integers under the name of weights."""
    if spec.dtype in _FLOAT8 or spec.dtype == torch.float8_e8m0fnu:
        return True
    return not spec.dtype.is_floating_point and bool(spec.shape) and bool(_CODES.search(name))


def _may_be_plain(name: str, spec: Spec) -> bool:
    return spec.dtype in _FLOAT8 or spec.dtype == torch.bool


def _beside(name: str, others: Sequence[str]) -> str | None:
    """The scales (or the like) of a tensor among those of its module and below its name."""
    last = name.rpartition(".")[2]
    stem = re.sub(r"_?(?:q?weight|kernel|packed|blocks|codes|W_q|Qidxs|qdata)$", "", last)
    for other in others:
        short = other.rpartition(".")[2]
        if _COMPANION.search(other) or (short.startswith(stem) and _BESIDE.search(short)):
            return other
    return None


def _codes_of(
    name: str, specs: Mapping[str, Spec], siblings: Sequence[str]
) -> tuple[str, str | None]:
    """The tensor that a companion belongs to, and the companion; else the companion alone."""
    parent = name.partition(".quant_state.")[0].rpartition(".")[0]
    for one in (name.partition(".quant_state.")[0], parent):
        if one != name and one in specs:
            return one, name
    for one in siblings:
        if _CODES.search(one) and not _BESIDE.search(one):
            return one, name
    return name, None
