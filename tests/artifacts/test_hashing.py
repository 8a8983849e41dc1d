"""The same content, the same hash; other content, another one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from weft.artifacts.hashing import HASH_LENGTH, hash_arrays, hash_file, hash_json


def test_json_hash_ignores_key_order_only() -> None:
    assert hash_json({"a": 1, "b": [1, 2]}) == hash_json({"b": [1, 2], "a": 1})
    values = [{"a": 1}, {"a": "1"}, {"a": 1.5}, {"b": 1}, [1, 2], [2, 1], None, "", "\ud800"]
    assert len({hash_json(value) for value in values}) == len(values)
    assert len(hash_json(None)) == HASH_LENGTH


def test_array_hash_sees_names_types_shapes_bits_and_extra() -> None:
    a = np.arange(6, dtype=np.int64)
    variants = [
        {"a": a},
        {"b": a},
        {"a": a.astype(np.int32)},
        {"a": a.reshape(2, 3)},
        {"a": a[::-1]},
        {"a": a, "b": a},
        {"a": a.astype(np.float64)},
    ]
    hashes = {hash_arrays(arrays) for arrays in variants} | {hash_arrays({"a": a}, extra=1)}
    assert len(hashes) == len(variants) + 1
    assert hash_arrays({"a": a, "b": a[:2]}) == hash_arrays({"b": a[:2], "a": a.copy()})
    assert hash_arrays({"a": a[::2]}) == hash_arrays({"a": a[::2].copy()})  # not the strides
    zero = np.array([0.0], dtype=np.float32)
    assert hash_arrays({"a": zero}) != hash_arrays({"a": -zero})


def test_file_hash_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"weft" * 1000)
    assert hash_file(tmp_path / "file") == hashlib.sha256(b"weft" * 1000).hexdigest()
