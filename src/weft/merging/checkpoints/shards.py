"""Merged tensors into the files of a checkpoint folder, each of which appears when it is whole."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from weft.artifacts.atomic import reason
from weft.artifacts.digests import Running
from weft.artifacts.tensors import Layout, lay_out
from weft.backbones.files import WEIGHTS
from weft.errors import SettingError, WriteError
from weft.merging.engine.source import Spec, cast


@dataclass(frozen=True)
class Shard:
    """One output file."""

    name: str
    layout: Layout


def plan_shards(
    specs: Mapping[str, Spec], shard_bytes: int, dtype: torch.dtype | None = None
) -> list[Shard]:
    """Tensors in their order, as many a file as `shard_bytes` of data hold, at least one.

    Floating point tensors get `dtype`, or keep their own.
    """
    if shard_bytes < 1:
        raise SettingError(f"shard_bytes must be at least 1, not {shard_bytes}")
    groups: list[list[tuple[str, torch.dtype, tuple[int, ...]]]] = []
    room = 0
    for name, spec in specs.items():
        stored = dtype if dtype is not None and spec.dtype.is_floating_point else spec.dtype
        need = spec.size * stored.itemsize
        if not groups or need > room:
            groups.append([])
            room = shard_bytes
        groups[-1].append((name, stored, spec.shape))
        room -= need
    if len(groups) == 1:
        return [Shard(WEIGHTS, lay_out(groups[0]))]
    stem, count = WEIGHTS.removesuffix(".safetensors"), len(groups)
    return [
        Shard(f"{stem}-{i:05d}-of-{count:05d}.safetensors", lay_out(group))
        for i, group in enumerate(groups, start=1)
    ]


class FolderSink:
    """A `Sink` that writes shards into a folder; those that are there already are kept.

    A shard is `NAME.part` until its last byte is on the disk. `out` is the folder's name in
    errors. Call `close` at the end, for errors of the last shards and all hashes.
    """

    def __init__(self, folder: Path, shards: Sequence[Shard], out: Path) -> None:
        self.folder, self.shards, self.out = folder, list(shards), out
        self._shard_of = {name: shard for shard in shards for name in shard.layout.tensors}
        self._done = {shard.name for shard in shards if (folder / shard.name).exists()}
        self._left = {shard.name: len(shard.layout.tensors) for shard in shards}
        self._files: dict[str, _File] = {}
        self._lock = threading.Lock()
        # The disk is waited for by a thread of its own, not by those that compute.
        self._closer = ThreadPoolExecutor(1)
        self._hashes: dict[str, Future[str]] = {
            name: self._closer.submit(_hash_again, folder / name) for name in sorted(self._done)
        }

    def wants(self, name: str) -> bool:
        """False where the tensor's shard is finished."""
        return self._shard_of[name].name not in self._done

    def write(self, name: str, start: int, values: Tensor) -> None:
        """Cast to the planned dtype (round to nearest even) and write; overflow is an error."""
        shard = self._shard_of[name]
        stored = shard.layout.tensors[name]
        raw = cast(name, values, stored.dtype).contiguous().view(torch.uint8).numpy().data
        with self._write_errors():
            self._file(shard).write(stored.start + start * stored.dtype.itemsize, raw)

    def finish(self, name: str) -> None:
        shard = self._shard_of[name]
        self._left[shard.name] -= 1
        with self._write_errors():
            if not self._left[shard.name]:
                file = self._file(shard)  # one of empty tensors was never written to
                self._hashes[shard.name] = self._closer.submit(file.finish)
            for future in self._hashes.values():
                if future.done():
                    future.result()

    def close(self) -> dict[str, str]:
        """File name -> BLAKE3, once all is on the disk."""
        with self._write_errors():
            return {shard.name: self._hashes[shard.name].result() for shard in self.shards}

    def _file(self, shard: Shard) -> _File:
        with self._lock:
            if shard.name not in self._files:
                self._files[shard.name] = _File(self.folder / shard.name, shard.layout)
            return self._files[shard.name]

    def _write_errors(self) -> _WriteErrors:
        return _WriteErrors(self.out)

    def __enter__(self) -> FolderSink:
        return self

    def __exit__(self, *_: object) -> None:
        self._closer.shutdown(cancel_futures=True)
        for file in self._files.values():
            file.abandon()


class _WriteErrors:
    """Says in one sentence why the output can't be written."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, OSError):
            raise WriteError(f"{self.out} can't be written: {reason(error)}") from error


class _File:
    """A shard under way."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self.path, self.size = path, layout.size
        self.part = path.with_name(path.name + ".part")
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self.descriptor = os.open(self.part, flags, 0o644)
        self._open = True
        try:
            os.posix_fallocate(self.descriptor, 0, layout.size)
        except OSError as error:
            if error.errno not in (95, 22):  # EOPNOTSUPP, EINVAL: this file system can't
                raise
        self._hash = Running(self.descriptor, self.part, layout.size)
        self._lock = threading.Lock()
        self._reached = 0  # every byte before it has been written
        self._ahead: dict[int, int] = {}  # written later ones: start -> end
        self.write(0, memoryview(layout.header))

    def write(self, offset: int, raw: memoryview) -> None:
        done = 0
        while done < len(raw):
            done += os.pwrite(self.descriptor, raw[done:], offset + done)
        with self._lock:
            self._ahead[offset] = offset + len(raw)
            while self._reached in self._ahead:
                self._reached = self._ahead.pop(self._reached)
        self._hash.pay(len(raw), self._reached)

    def finish(self) -> str:
        """Give the whole file its name; returns its hash."""
        if self._reached != self.size:
            raise AssertionError(f"{self.path}: written up to {self._reached} of {self.size}")
        digest = self._hash.finish()
        os.fsync(self.descriptor)
        self.part.rename(self.path)
        self.abandon()
        return digest

    def abandon(self) -> None:
        if self._open:
            self._open = False
            with suppress(OSError):
                os.close(self.descriptor)


def _hash_again(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return Running(descriptor, path, os.fstat(descriptor).st_size).finish()
    finally:
        os.close(descriptor)
