"""Files that lie beside weights and go wherever those go: codebooks, tables of ids, counts.

The manifest has their names and hashes in `artifacts`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from weft.artifacts.atomic import read_json, write_json
from weft.artifacts.hashing import hash_file
from weft.errors import DataError, MismatchError, NotFoundError

MANIFEST, INTEGRATOR = "weft.json", "integrator.json"


def file_hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Name -> hash of each file."""
    return {name: hash_file(folder / name) for name in names}


def travelling_files(folder: Path) -> dict[str, str]:
    """Name -> hash of the files that travel with the weights in a folder, as its manifest has them."""
    file = next((one for one in _manifests(folder) if one.is_file()), None)
    values = {} if file is None else read_json(file)
    files = values.get("artifacts", {}) if isinstance(values, dict) else {}
    plain = isinstance(files, dict) and all(
        isinstance(value, str) and Path(name).name == name for name, value in files.items()
    )
    if not plain:
        raise DataError(f"{file}: artifacts: must be names of files here and their hashes")
    return dict(files)


def _manifests(folder: Path) -> list[Path]:
    return [folder / INTEGRATOR, folder / MANIFEST]


def check_files(folder: Path) -> None:
    """A `WeftError` where a file that weft.json names is missing or another one."""
    for name, expected in travelling_files(folder).items():
        if not (folder / name).is_file():
            raise NotFoundError(f"{folder / MANIFEST} names {name}, and {folder} has no such file")
        if hash_file(folder / name) != expected:
            raise MismatchError(f"{folder / name} is not the file that {MANIFEST} names")


def copy_travelling(source: Path, folder: Path) -> None:
    """Copy what travels with the weights in a folder to another."""
    for name in travelling_files(source):
        shutil.copyfile(source / name, folder / name)


def carry_files(sources: Sequence[Path], folder: Path) -> None:
    """Copy what travels with the weights in the folders `sources` to what was merged out of them.

    It must be the same in all of them: merged weights go with one set of codebooks. Otherwise a
    `MismatchError`.
    """
    files = [travelling_files(source) for source in sources]
    for source, other in zip(sources, files, strict=True):
        if other != files[0]:
            names = ", ".join(sorted(files[0].keys() | other.keys()))
            raise MismatchError(
                f"{sources[0]} and {source} have other files beside their weights ({names}), so "
                "their weights can't be merged"
            )
    if not files or not files[0]:
        return
    copy_travelling(sources[0], folder)
    manifest: Mapping[str, Any] = read_json(folder / MANIFEST)
    write_json(folder / MANIFEST, {**manifest, "artifacts": files[0]})
