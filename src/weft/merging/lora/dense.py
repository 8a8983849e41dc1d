"""Any merging method on adapters, through the engine: ΔW a few rows at a time, or the factors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch
from torch import Tensor

from weft.merging.engine.schedule import threads_alone
from weft.merging.engine.source import Spec
from weft.merging.engine.stream import Merge, stream

X = TypeVar("X")


def merge_each(
    merge: Merge, finish: Callable[[str, Tensor], X], *, threads: int | None = None
) -> dict[str, X]:
    """What `finish` makes of each merged tensor (float32), which is then let go.

    Only the few tensors under way are in memory at any time.
    """
    specs = merge.parts[0].specs
    # Now, as torch has one thread once others compute alone.
    count = torch.get_num_threads() if threads is None else threads
    with threads_alone(count) as pool:
        sink = _Sink(specs, finish, pool, count)
        stream(merge, sink, threads=count)
        return {name: sink.results[name].result() for name in specs}


class _Sink(Generic[X]):
    """Gathers a tensor's blocks and passes it on, on a thread that computes alone: the bits of
    what comes out must not depend on the number of threads."""

    def __init__(
        self,
        specs: Mapping[str, Spec],
        finish: Callable[[str, Tensor], X],
        pool: ThreadPoolExecutor,
        count: int,
    ) -> None:
        self.results: dict[str, Future[X]] = {}
        self._specs, self._make, self._pool = specs, finish, pool
        self._open: dict[str, Tensor] = {}
        self._lock = threading.Lock()
        self._room = threading.Semaphore(count)

    def wants(self, name: str) -> bool:
        return True

    def write(self, name: str, start: int, values: Tensor) -> None:
        with self._lock:
            if name not in self._open:
                self._open[name] = torch.zeros(self._specs[name].size)
            tensor = self._open[name]
        tensor[start : start + values.numel()] = values

    def finish(self, name: str) -> None:
        tensor = self._open.pop(name, torch.zeros(0)).view(self._specs[name].shape)
        self._room.acquire()
        self.results[name] = self._pool.submit(self._do, name, tensor)

    def _do(self, name: str, tensor: Tensor) -> X:
        try:
            return self._make(name, tensor)
        finally:
            self._room.release()
