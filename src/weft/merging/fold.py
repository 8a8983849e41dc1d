"""An adapter and its backbone as one full checkpoint, for whatever knows no adapters."""

from __future__ import annotations

from pathlib import Path

import torch

from weft.adapters import load_adapter
from weft.artifacts.atomic import check_folder
from weft.backbones import find_backbone
from weft.backbones.load import fingerprint_of
from weft.errors import WeftError
from weft.merging.algebra import weights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def fold(
    adapter: Path,
    out: Path,
    *,
    base: Path | None = None,
    dtype: str | None = None,
    threads: int | None = None,
) -> Path:
    """W + s·BA for every module of the adapter, streamed to the new folder `out`, with the
    backbone's tokenizer and configuration: it loads in transformers with nothing else.

    `base` is the backbone's folder, the one that the adapter names unless given; `dtype` float32,
    bfloat16 or float16, the backbone's unless given. An adapter of another backbone is a
    `WeftError` that names both.
    """
    check_folder(out, new=True)
    if dtype is not None and dtype not in DTYPES:
        raise WeftError(f"dtype is one of {', '.join(DTYPES)}, not {dtype}")
    said = load_adapter(adapter, lazy=True).manifest["backbone"]
    folder = base or find_backbone(said["name"])
    there = fingerprint_of(folder) if folder.is_dir() else ""
    if not said["fingerprint"].startswith("name:") and said["fingerprint"] != there:
        raise WeftError(
            f"the adapter {adapter} belongs to backbone {said['name']} "
            f"({said['fingerprint'][:12]}…), not to {folder} ({there[:12] or 'no folder'}…)"
        )
    whole = weights(folder) + weights(adapter)
    whole.save(out, DTYPES[dtype] if dtype else None, threads=threads)
    return out
