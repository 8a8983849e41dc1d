"""Random draws that depend on a seed and an id, never on the order of rows.

A user's key is a hash of the seed and the user's id, so that the same users are drawn from a
shuffled file, and a sample of 100 users is part of the sample of 1,000 with the same seed.
"""

from __future__ import annotations

import hashlib

import numpy as np
import polars as pl
from numpy.typing import NDArray

KeyArray = NDArray[np.uint64]


def user_keys(user_ids: pl.Series, seed: int, purpose: str) -> KeyArray:
    """[users] uint64, uniform; `purpose` makes draws for different ends independent."""
    start = hashlib.blake2b(f"{purpose}|{seed}|".encode(), digest_size=8)
    out = bytearray()
    for user_id in user_ids.to_list():
        digest = start.copy()
        digest.update(user_id.encode())
        out += digest.digest()
    return np.frombuffer(bytes(out), dtype="<u8").astype(np.uint64)


def mix(keys: KeyArray, numbers: NDArray[np.integer]) -> KeyArray:
    """[n] uint64: a new key for each (key, number); splitmix64's finaliser, the same anywhere."""
    with np.errstate(over="ignore"):
        z = keys + (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        out: KeyArray = z ^ (z >> np.uint64(31))
        return out


def uniform(keys: KeyArray) -> NDArray[np.float64]:
    """[n] float64 in [0, 1)."""
    return (keys >> np.uint64(11)).astype(np.float64) * 2.0**-53
