"""Item vectors stored beside a recommender, so that asking it again does not compute them again."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from weft.artifacts.atomic import new_file
from weft.artifacts.hashing import hash_arrays
from weft.artifacts.versions import library_versions
from weft.errors import WeftError

NAME, HASH = "texts", "hash"


@cache
def computed_by() -> list[Any]:
    """What decides the bits of a product beside its factors: libraries, and the processor's kind."""
    versions = library_versions()
    return [
        {name: versions.get(name) for name in ("torch", "transformers", "tokenizers")},
        torch.backends.cpu.get_cpu_capability(),
    ]


def read_vectors(file: Path, count: int) -> NDArray[np.float32] | None:
    """The vectors [count, d] float32 of a file; None where it is missing, damaged or another's."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="np") as opened:
            stated = (opened.metadata() or {}).get(HASH)
            vectors: NDArray[np.float32] = opened.get_tensor(NAME)
    except (SafetensorError, OSError):
        return None
    whole = vectors.dtype == np.float32 and vectors.ndim == 2 and len(vectors) == count
    return vectors if whole and stated == hash_arrays({NAME: vectors}) else None


def write_vectors(file: Path, vectors: NDArray[np.float32]) -> str | None:
    """Store vectors. Where the folder can't be written none are stored, and the reason is returned."""
    try:
        with new_file(file) as temporary:
            save_file({NAME: vectors}, temporary, {HASH: hash_arrays({NAME: vectors})})
    except (OSError, SafetensorError, WeftError) as error:
        return f"item vectors can't be stored, so they are computed each time: {error}"
    return None
