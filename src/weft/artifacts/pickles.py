"""Weights that are there as a pickle alone: they are not read, and this is how to convert them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from weft.artifacts.tensors import PICKLES


def pickled_weights(folder: Path, stems: Sequence[str]) -> list[str]:
    """Names of the pickle files in a folder whose names start with one of the stems."""
    pickles = [one.name for one in folder.iterdir() if one.suffix in PICKLES]
    return sorted(name for name in pickles if name.startswith(tuple(stems)))


def pickle_advice(folder: Path, names: Sequence[str], wanted: str) -> str:
    """That a folder has its weights as pickles, and the one line that converts them."""
    count = f" and {len(names) - 1} more" if len(names) > 1 else ""
    code = (
        "import torch, safetensors.torch as s; "
        f"s.save_file({{k: v.contiguous().clone() for f in {list(names)} for k, v in "
        "torch.load(f, map_location='cpu', weights_only=True).items()}, "
        f"'{wanted}', metadata={{'format': 'pt'}})"
    )
    return (
        f"{folder} has no {wanted}, only {names[0]}{count}: a pickle file can run code and is "
        f'never read. If you trust it, convert it: (cd {folder} && python -c "{code}")'
    )
