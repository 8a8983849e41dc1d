"""Safetensors files: their header read strictly, and written before any data is known.

Nothing here maps a file into memory: pages of a map count as resident memory of the process.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from weft.artifacts.documents import open_regular, parse_json
from weft.artifacts.reasons import reason
from weft.errors import DataError

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
"""What safetensors calls a dtype. The packed ones (several elements a byte) are not read."""

MOST_HEADER = 100_000_000  # bytes, as in the safetensors library
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MOST_ELEMENTS = 2**63 - 1


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies in its file: `start` counts from the file's first byte."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    bytes: int


@dataclass(frozen=True)
class Header:
    """What a file holds, tensors in the order of their bytes."""

    tensors: Mapping[str, Stored]
    metadata: Mapping[str, str]
    raw: bytes  # the file up to the data
    size: int  # of the file, in bytes


def open_weights(path: Path) -> int:
    """A file descriptor for reading; a `DataError` for what is no plain file or holds a pickle."""
    path = Path(path)
    if path.suffix in PICKLES:
        raise DataError(f"{path} is a pickle file, and a pickle file is never read")
    return open_regular(path)


def read_header(path: Path) -> Header:
    """The checked header of a safetensors file; see `header_of`."""
    descriptor = open_weights(path)
    try:
        return header_of(descriptor, path)
    finally:
        os.close(descriptor)


def header_of(descriptor: int, path: Path) -> Header:
    """The checked header of an open safetensors file.

    Raises `DataError` unless the header is JSON of the right kind without doubles, and the
    tensors fill the rest of the file without a hole or an overlap, each as long as its dtype and
    shape say.
    """
    size = os.fstat(descriptor).st_size
    start = read_exactly(descriptor, min(size, 8), 0, path)
    if size < 8:
        raise DataError(f"{path} is too short for a safetensors file: {size} bytes")
    length = int.from_bytes(start, "little")
    if length > min(MOST_HEADER, size - 8):
        raise DataError(f"{path} {_not_safetensors(descriptor, length, size, path)}")
    raw = read_exactly(descriptor, length, 8, path)
    entries = _parse(raw, path)
    metadata = _metadata(entries.pop("__metadata__", {}), path)
    data = 8 + length
    tensors = {name: _stored(name, entry, data, path) for name, entry in entries.items()}
    return Header(_check_cover(tensors, data, size, path), metadata, start + raw, size)


def read_exactly(descriptor: int, count: int, offset: int, path: Path) -> bytes:
    """`count` bytes from `offset`; a `DataError` when the file ends before."""
    buffer = bytearray(count)
    read_into(descriptor, memoryview(buffer), offset, path)
    return bytes(buffer)


def read_into(descriptor: int, buffer: memoryview, offset: int, path: Path) -> None:
    """Fill `buffer` from `offset`; safe from several threads at once."""
    done = 0
    while done < len(buffer):
        try:
            count = os.preadv(descriptor, [buffer[done:]], offset + done)
        except OSError as error:
            raise DataError(f"{path} can't be read: {reason(error)}") from None
        if not count:
            raise DataError(f"{path} ends at byte {offset + done}: it was cut while being read")
        done += count


def _not_safetensors(descriptor: int, length: int, size: int, path: Path) -> str:
    """What a file is whose first 8 bytes are no possible length of a header."""
    start = read_exactly(descriptor, min(size, 16), 0, path)
    if start[:4] == b"PK\x03\x04" or (start[0] == 0x80 and start[1] in range(2, 6)):
        return "is a pickle file, and a pickle file is never read"
    if start.startswith(b"version https://"):
        return "is a Git LFS pointer, not the weights: fetch them with `git lfs pull`"
    if length <= size - 8:
        return f"has a header of {length} bytes; at most {MOST_HEADER} are read"
    return f"is cut or no safetensors file: a header of {length} bytes in a file of {size}"


def _parse(raw: bytes, path: Path) -> dict[str, Any]:
    entries = parse_json(raw, f"{path}: its header") if raw[:1] == b"{" else None
    if not isinstance(entries, dict):
        raise DataError(f"{path}: its header is not valid JSON")
    for name in entries:
        if not name.isprintable():
            raise DataError(f"{path} names a tensor {name!a}, with control characters")
    return entries


def _metadata(metadata: Any, path: Path) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(
        isinstance(text, str) for text in metadata.values()
    ):
        raise DataError(f"{path} has metadata that is not text by name")
    return metadata


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOST_ELEMENTS


def _stored(name: str, entry: Any, data: int, path: Path) -> Stored:
    """One entry of the header, by itself; `data` is where the data begins."""
    of = f"{path}: tensor '{name}'"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise DataError(f"{of} needs exactly a dtype, a shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise DataError(f"{of} has the unknown dtype {ascii(dtype)[:40]}")
    if not isinstance(shape, list) or not all(_whole(size) for size in shape):
        raise DataError(f"{of} has a shape that is not a list of whole numbers")
    if math.prod(size for size in shape if size) > _MOST_ELEMENTS or len(shape) > 64:
        raise DataError(f"{of} has a shape too large for any tensor")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_whole, offsets)):
        raise DataError(f"{of} has data_offsets that are not two whole numbers")
    begin, end = offsets
    need = math.prod(shape) * DTYPES[dtype].itemsize
    if end - begin != need:
        raise DataError(f"{of} has {end - begin} bytes, but {dtype} of {shape} takes {need}")
    return Stored(DTYPES[dtype], tuple(shape), data + begin, need)


def _check_cover(
    tensors: Mapping[str, Stored], data: int, size: int, path: Path
) -> dict[str, Stored]:
    """The tensors in the order of their bytes, which must cover the file's data once."""
    order = sorted(tensors, key=lambda name: (tensors[name].start, tensors[name].bytes))
    reached = data
    for name in order:
        start = tensors[name].start
        if start < reached:
            raise DataError(f"{path}: tensor '{name}' overlaps the one before it")
        if start > reached:
            raise DataError(
                f"{path}: {start - reached} bytes before tensor '{name}' belong to none"
            )
        reached = start + tensors[name].bytes
        if reached > size:
            raise DataError(f"{path} is cut: tensor '{name}' ends {reached - size} bytes after it")
    if reached < size:
        raise DataError(f"{path} has {size - reached} bytes after the last tensor")
    return {name: tensors[name] for name in order}


@dataclass(frozen=True)
class Layout:
    """A file to be: its first bytes, and where each tensor's data goes."""

    header: bytes
    tensors: Mapping[str, Stored]
    size: int


def lay_out(
    tensors: Sequence[tuple[str, torch.dtype, Sequence[int]]],
    metadata: Mapping[str, str] | None = None,
) -> Layout:
    """Plan a file of these tensors (name, dtype, shape), which keep their order.

    The same arguments give the same bytes. Wider elements come first, so that every tensor is
    aligned to its element. Blocks of data may then be written in any order.
    """
    metadata = {"format": "pt"} if metadata is None else metadata
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    ends: dict[str, tuple[torch.dtype, tuple[int, ...], int, int]] = {}
    reached = 0
    for name, dtype, shape in sorted(tensors, key=lambda one: -one[1].itemsize):
        if dtype not in _NAMES:
            raise DataError(f"tensor '{name}': safetensors has no name for {dtype}")
        if name in entries or not name.isprintable():
            raise DataError(f"{name!a} can't be the name of a tensor in a safetensors file")
        end = reached + math.prod(shape) * dtype.itemsize
        offsets = [reached, end]
        entries[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": offsets}
        ends[name] = (dtype, tuple(shape), reached, end)
        reached = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MOST_HEADER:
        raise DataError(f"{len(tensors)} tensors need a header of more than {MOST_HEADER} bytes")
    data = 8 + len(text)
    stored = {
        name: Stored(dtype, shape, data + begin, end - begin)
        for name, (dtype, shape, begin, end) in ends.items()
    }
    return Layout(len(text).to_bytes(8, "little") + text, stored, data + reached)
