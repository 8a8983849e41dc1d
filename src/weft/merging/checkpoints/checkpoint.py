"""Full checkpoints as parts of a merge: safetensors files, read a block at a time."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weft.artifacts.digests import Running
from weft.artifacts.documents import read_json, read_object
from weft.artifacts.pickles import pickle_advice, pickled_weights
from weft.artifacts.tensors import (
    Header,
    Stored,
    header_of,
    open_weights,
    read_into,
)
from weft.backbones.companions import Companions, companions_of
from weft.backbones.files import CONFIG, INDEX, WEIGHTS
from weft.errors import DataError, NotFoundError, SettingError
from weft.merging.engine.source import Spec
from weft.merging.paths import ADAPTER_CONFIG, ADAPTER_WEIGHTS


@dataclass(frozen=True, eq=False)
class WeightFile:
    """One open safetensors file."""

    path: Path
    descriptor: int
    header: Header
    modified: int  # ns
    hash: Running

    def check_unchanged(self) -> None:
        """A `WeftError` when the file is not what it was when it was opened."""
        now = os.fstat(self.descriptor)
        if (now.st_size, now.st_mtime_ns) != (self.header.size, self.modified):
            raise DataError(f"{self.path} was changed while it was being read")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A `TensorSource` over the weights of one model; made by `open_checkpoint`.

    Its files stay open until `close`, the end of a `with` block, or its own end.
    """

    label: str
    path: Path
    files: tuple[WeightFile, ...]
    specs: Mapping[str, Spec]
    config: Mapping[str, Any] | None  # config.json
    beside: Companions  # what lies in its folder; of a file by itself, nothing
    _places: Mapping[str, tuple[WeightFile, Stored]]

    def __post_init__(self) -> None:
        descriptors = [file.descriptor for file in self.files]
        object.__setattr__(self, "_finalizer", weakref.finalize(self, _close, descriptors))

    def read(self, name: str, start: int, count: int) -> Tensor:
        """Elements [start, start + count) of the flattened tensor, [count], in its own dtype."""
        file, stored = self._places[name]
        item = stored.dtype.itemsize
        if not 0 <= start <= start + count <= stored.bytes // item:
            raise IndexError(f"{name}: elements {start} to {start + count}")
        raw = torch.empty(count * item, dtype=torch.uint8)
        offset = stored.start + start * item
        read_into(file.descriptor, raw.numpy().data, offset, file.path)
        file.hash.pay(count * item)
        return raw.view(stored.dtype)

    def hashes(self, threads: int = 1) -> dict[str, str]:
        """File name -> BLAKE3; what reading has not hashed yet is read for it."""
        with ThreadPoolExecutor(threads) as pool:
            digests = list(pool.map(lambda file: file.hash.finish(), self.files))
        for file in self.files:
            file.check_unchanged()
        return {file.path.name: one for file, one in zip(self.files, digests, strict=True)}

    @property
    def companions(self) -> tuple[Path, ...]:
        """The files that a copy of the model needs beside the weights."""
        return tuple(self.path / name for name in self.beside.copied)

    @property
    def home(self) -> Path | None:
        """The model's folder, in which its other files lie; None for a file by itself."""
        if self.path.is_dir():
            return self.path
        return self.path.parent if self.path.name == WEIGHTS else None

    def file_of(self, name: str) -> Path:
        """The file in which a tensor lies."""
        return self._places[name][0].path

    @property
    def vocab_size(self) -> int | None:
        """As config.json says; None where it does not."""
        config = self.config or {}
        text = config.get("text_config")
        size = config.get("vocab_size", text.get("vocab_size") if isinstance(text, dict) else None)
        return size if isinstance(size, int) else None

    @property
    def tied(self) -> bool:
        """Whether the output layer is the input embedding: config.json says so, or it is absent."""
        says = bool((self.config or {}).get("tie_word_embeddings"))
        return says or not any(_is_head(name) for name in self.specs)

    def close(self) -> None:
        self._finalizer()  # type: ignore[attr-defined]

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<checkpoint {self.path}, {len(self.specs)} tensors>"


def _is_head(name: str) -> bool:
    return name == "lm_head.weight" or name.endswith(".lm_head.weight")


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        with suppress(OSError):
            os.close(descriptor)


def open_checkpoint(path: Path, label: str | None = None) -> Checkpoint:
    """Open a folder (model.safetensors, or an index and its shards) or one safetensors file.

    `label` is by default the folder's or file's name. Every header is checked; a file that is
    cut, lies or holds a pickle, an index that does not fit its shards, and an adapter are
    `WeftError`s that name the file.
    """
    path = Path(path)
    if path.is_dir():
        paths, weight_map = _weights_in(path)
    else:
        if not path.exists():
            raise NotFoundError(f"{path} does not exist")
        if path.name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            raise SettingError(f"{path} is an adapter, not a checkpoint")
        paths, weight_map = [path], None
    files: list[WeightFile] = []
    try:
        files.extend(_open(one) for one in paths)
        places = dict(_places(files))
        if weight_map is not None:
            _check_index(path / INDEX, weight_map, places)
        if not places:
            raise DataError(f"{path} holds no tensors")
        config = _config(path / CONFIG) if path.is_dir() else None
        specs = {name: Spec(one.shape, one.dtype) for name, (_, one) in places.items()}
        name = label or path.resolve().name or str(path)
        return Checkpoint(name, path, tuple(files), specs, config, companions_of(path), places)
    except BaseException:
        _close([file.descriptor for file in files])
        raise


def _open(path: Path) -> WeightFile:
    descriptor = open_weights(path)
    try:
        header = header_of(descriptor, path)
        modified = os.fstat(descriptor).st_mtime_ns
        running = Running(descriptor, path, header.size)
        return WeightFile(path, descriptor, header, modified, running)
    except BaseException:
        os.close(descriptor)
        raise


def _weights_in(folder: Path) -> tuple[list[Path], dict[str, str] | None]:
    """The weight files of a folder, and tensor -> file name where an index says so."""
    if (folder / ADAPTER_CONFIG).exists():
        raise SettingError(f"{folder} is an adapter, not a checkpoint")
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS], None
    if (folder / INDEX).exists():
        weight_map = _weight_map(folder / INDEX)
        return [folder / name for name in dict.fromkeys(weight_map.values())], weight_map
    pickled = pickled_weights(folder, ("pytorch_model", "model")) or pickled_weights(folder, ("",))
    if pickled:
        raise DataError(pickle_advice(folder, pickled, WEIGHTS))
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    if not others:
        raise NotFoundError(f"{folder} has neither {WEIGHTS} nor {INDEX}{inner_advice(folder)}")
    raise NotFoundError(
        f"{folder} has {others[0]}, but neither {WEIGHTS} nor {INDEX}: "
        + (
            f"name that file itself ({folder / others[0]})"
            if len(others) == 1 and "-of-" not in others[0]
            else "its files are those of one model only with the index that says so"
        )
    )


def inner_advice(folder: Path) -> str:
    """What to name in the place of a folder without weights, if folders in it have some (as those
    of training's checkpoints, and of PEFT's adapters that have a name); else nothing."""
    names = (ADAPTER_CONFIG, WEIGHTS, INDEX)
    inner = sorted({path.parent for name in names for path in folder.glob(f"*/{name}")})
    return f"; name a folder in it, such as {inner[-1]}" if inner else ""


def _weight_map(path: Path) -> dict[str, str]:
    index = read_json(path)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not all(
        isinstance(file, str) for file in weight_map.values()
    ):
        raise DataError(f"{path} has no weight_map of tensor names to file names")
    for name, file in weight_map.items():
        if Path(file).name != file or "\0" in file or Path(file).suffix != ".safetensors":
            raise DataError(
                f"{path}: weight_map puts {name!a} into {file!a}, "
                "which is no safetensors file of that folder"
            )
    for file in dict.fromkeys(weight_map.values()):
        if not (path.parent / file).exists():
            raise NotFoundError(f"{path} names the file {file!a}, which does not exist")
    return weight_map


def _places(files: list[WeightFile]) -> Iterator[tuple[str, tuple[WeightFile, Stored]]]:
    """Every tensor in the order of files and bytes."""
    seen: dict[str, Path] = {}
    for file in files:
        for name, stored in file.header.tensors.items():
            if name in seen:
                raise DataError(
                    f"tensor '{name}' is in {seen[name].name} and in {file.path.name} "
                    f"of {file.path.parent}"
                )
            seen[name] = file.path
            yield name, (file, stored)


def _check_index(
    path: Path, weight_map: Mapping[str, str], places: Mapping[str, tuple[WeightFile, Stored]]
) -> None:
    for name, file in weight_map.items():
        if name not in places:
            raise DataError(f"{path}: tensor {name!a} is not in {file}")
        stored_in = places[name][0].path.name
        if stored_in != file:
            raise DataError(f"{path}: tensor '{name}' is in {stored_in}, not in {file}")
    for name, (there, _) in places.items():
        if name not in weight_map:
            raise DataError(f"{path} does not name the tensor '{name}' of {there.path.name}")


def _config(path: Path) -> dict[str, Any] | None:
    return read_object(path) if path.exists() else None
