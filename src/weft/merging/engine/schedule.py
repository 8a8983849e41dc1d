"""Work on many tensors over a few threads, without a thread that waits for others to catch up."""

from __future__ import annotations

import ctypes
import functools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch

from weft.errors import SettingError

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # as malloc.h has them


def _drop(_: Any) -> None:
    pass


@dataclass(frozen=True)
class Step:
    """A job for every piece, by any thread and in any order; `take` gets the results in order."""

    job: Callable[[Any], Any]
    pieces: Sequence[Any]
    take: Callable[[Any], None] = _drop


Work = Generator[Step, None, None]
"""The steps of one tensor: the next is asked for when every result of the last was taken."""


@dataclass
class _Open:
    """A piece of work under way."""

    work: Work
    step: Step = field(default_factory=lambda: Step(_drop, ()))
    handed_out: int = 0  # pieces that threads have
    taken: int = 0

    def advance(self) -> bool:
        """Go to the next step that has pieces; False at the end."""
        for step in self.work:
            if step.pieces:
                self.step, self.handed_out, self.taken = step, 0, 0
                return True
        return False


def run_all(pool: ThreadPoolExecutor, works: Iterable[Work]) -> None:
    """Run works side by side, earlier ones first, few jobs and results waiting at any time.

    `take`, and the works' own code, run in the calling thread.
    """
    room = 2 * pool._max_workers + 1
    fresh = iter(works)
    under_way: list[_Open] = []
    waiting: deque[tuple[Future[Any], _Open]] = deque()
    try:
        while True:
            while len(waiting) < room and (one := _next(under_way, fresh, room)) is not None:
                piece = one.step.pieces[one.handed_out]
                one.handed_out += 1
                waiting.append((pool.submit(one.step.job, piece), one))
            if not waiting:
                return
            future, one = waiting.popleft()
            one.step.take(future.result())
            one.taken += 1
            if one.taken == len(one.step.pieces) and not one.advance():
                under_way.remove(one)
    finally:
        for future, _ in waiting:
            future.cancel()


def _next(under_way: list[_Open], fresh: Iterator[Work], most: int) -> _Open | None:
    """The earliest work that has a piece to hand out, else a fresh one."""
    for one in under_way:
        if one.handed_out < len(one.step.pieces):
            return one
    while len(under_way) < most:
        work = next(fresh, None)
        if work is None:
            return None
        opened = _Open(work)
        if opened.advance():
            under_way.append(opened)
            return opened
    return None


@functools.cache
def _keep_freed_memory() -> None:
    """Have glibc keep up to 64 MB that was freed a thread.

    It gives a block of more than 128 kB back to the system at each free, and the pages that come
    anew for the next one cost more time than what is computed on them.
    """
    with suppress(OSError, AttributeError):  # of another C library
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(_MMAP_THRESHOLD, 32 << 20)
        mallopt(_TRIM_THRESHOLD, 64 << 20)


@contextmanager
def threads_alone(threads: int | None) -> Iterator[ThreadPoolExecutor]:
    """Threads that compute alone: torch would else split sums by the number of its own.

    So does the calling thread meanwhile, or torch's own threads would spin beside these.
    """
    if threads is not None and threads < 1:
        raise SettingError(f"threads must be at least 1, not {threads}")
    _keep_freed_memory()
    before = torch.get_num_threads()
    count = before if threads is None else threads
    try:
        torch.set_num_threads(1)
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)
