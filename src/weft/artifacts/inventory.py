"""What files a folder holds, by size and hash, and whether it still holds them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from blake3 import blake3

from weft.artifacts.documents import open_regular
from weft.errors import WeftError

Inventory = Mapping[str, tuple[int, str]]
"""Path below the folder, with `/` -> size in bytes and BLAKE3 as 64 hex digits."""

_STEP = 1 << 20  # bytes


def take_inventory(folder: Path, names: Iterable[str] | None = None) -> dict[str, tuple[int, str]]:
    """Every file of a folder, or those of the names; without hidden ones.

    Reads them once: a processor hashes 1 to 3 GB a second, so a disk decides how long it takes.
    """
    files = files_in(folder) if names is None else names
    return {name: _size_and_hash(folder / name) for name in sorted(files)}


def difference(
    folder: Path, inventory: Inventory, besides: Collection[str] | None = None
) -> str | None:
    """The first difference between a folder and its inventory, in a few words; None if it
    is. Further files are a difference too, but those `besides`; without these any may be there."""
    files = files_in(folder)
    for name, (size, digest) in sorted(inventory.items()):
        if name not in files:
            return f"{name} is missing"
        try:
            now = _size_and_hash(folder / name)
        except WeftError:
            return f"{name} can't be read"
        if now[0] != size:
            return f"{name} has {now[0]:,} bytes, not {size:,}"
        if now[1] != digest:
            return f"{name} was changed"
    more = set() if besides is None else files - inventory.keys() - set(besides)
    return f"{min(more)} was added" if more else None


def files_in(folder: Path) -> set[str]:
    """The names of all files below a folder that are not hidden."""
    paths = set()
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        place = Path(root).relative_to(folder)
        paths |= {(place / name).as_posix() for name in files if not name.startswith(".")}
    return paths


def parse_inventory(value: object) -> dict[str, tuple[int, str]] | None:
    """An inventory as JSON holds it; None where it is none."""
    if not isinstance(value, dict):
        return None
    inventory: dict[str, tuple[int, str]] = {}
    for name, entry in value.items():
        match entry:
            case [int(size), str(digest)]:
                inventory[name] = (size, digest)
            case _:
                return None
    return inventory


def _size_and_hash(path: Path) -> tuple[int, str]:
    digest, size = blake3(), 0
    with os.fdopen(open_regular(path), "rb", buffering=0) as file:
        while block := file.read(_STEP):
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()
