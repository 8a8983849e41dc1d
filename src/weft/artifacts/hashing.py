"""Content hashes: the same content, the same hash, on every machine and run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.artifacts.documents import open_regular

HASH_LENGTH = 32  # hex digits kept: 128 bits


def hash_json(value: Any) -> str:
    """Hash of a JSON-serialisable value; key order does not count.

    >>> hash_json({"rank": 16, "alpha": 32}) == hash_json({"alpha": 32, "rank": 16})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:HASH_LENGTH]


def hash_arrays(arrays: Mapping[str, NDArray[Any]], extra: Any = None) -> str:
    """Hash of named arrays (dtype, shape and bits) and of a JSON-serialisable extra."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(array.tobytes())
    digest.update(hash_json(extra).encode())
    return digest.hexdigest()[:HASH_LENGTH]


def hash_file(path: Path) -> str:
    """Full SHA-256 (64 hex digits) of a file's bytes."""
    with os.fdopen(open_regular(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def short_hashes(*hashes: str) -> tuple[str, ...]:
    """The first 12 digits of each; all of them where different ones would look the same."""
    short = [f"{one[:12]}…" if len(one) > 12 else one for one in hashes]
    return tuple(short if len(set(short)) == len(set(hashes)) else hashes)
