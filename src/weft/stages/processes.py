"""Doing stages in worker processes of this machine, each with its own number of threads.

Two processes of one thread beat one process of two threads on small models (nothing waits at
barriers), and results do not depend on how many cores a machine has.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty

from weft.errors import WeftError
from weft.stages.executor import Bounds, Ended, Executor, Progressed, execute
from weft.stages.stage import Stage

SAY_EVERY = 0.5  # seconds between two words of one worker
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_progress: Queue[Progressed] | None = None


def _die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, however it dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)


def _start_worker(progress: Queue[Progressed], threads: int, parent: int) -> None:
    global _progress
    _progress = progress
    progress.cancel_join_thread()  # what was not said yet must not keep a worker from ending
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)  # the main process decides, and kills
    _die_with_parent(parent)
    import torch

    torch.set_num_threads(threads)


@contextmanager
def _signals_deferred() -> Iterator[None]:
    """Signals wait until a process is started: a half-started one would end with a traceback."""
    handlers = {number: signal.getsignal(number) for number in STOPPING}
    if threading.current_thread() is not threading.main_thread() or None in handlers.values():
        yield
        return
    pending: list[int] = []
    for number in STOPPING:
        signal.signal(number, lambda number, frame: pending.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for deferred in pending:
        signal.raise_signal(deferred)


def _work(stage: Stage, run: Path) -> None:
    last = 0.0

    def report(done: float, total: float, unit: str) -> None:
        nonlocal last
        now = time.monotonic()
        if _progress is not None and (now - last > SAY_EVERY or done >= total):
            last = now
            _progress.put(Progressed(stage.key, done, total, unit))

    execute(stage, run, report)


class ProcessExecutor(Executor):
    """A pool of spawned processes, `threads` each."""

    def __init__(self, bounds: Bounds, threads: int = 1) -> None:
        self._bounds, self.threads = bounds, threads

    @property
    def bounds(self) -> Bounds:
        return self._bounds

    def __enter__(self) -> ProcessExecutor:
        context = multiprocessing.get_context("spawn")
        self._progress: Queue[Progressed] = context.Queue()
        self._futures: dict[Future[None], str] = {}
        # Thread pools read these when they are first imported, in the child.
        os.environ["OMP_NUM_THREADS"] = os.environ["POLARS_MAX_THREADS"] = str(self.threads)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        start = (self._progress, self.threads, os.getpid())
        self._pool = ProcessPoolExecutor(self.bounds.processes, context, _start_worker, start)
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def submit(self, stage: Stage, run: Path) -> None:
        try:
            with _signals_deferred():
                future = self._pool.submit(_work, stage, run)
        except BrokenProcessPool as error:
            future = Future()
            future.set_exception(error)
        self._futures[future] = stage.key

    def events(self, seconds: float) -> Iterator[Progressed | Ended]:
        done, _ = wait(self._futures, timeout=seconds, return_when=FIRST_COMPLETED)
        yield from self._queued()  # also after an error: a full queue would hold a worker
        for future in done:
            yield Ended(self._futures.pop(future), _explained(future.exception()))

    def _queued(self) -> Iterator[Progressed]:
        with suppress(Empty):
            while True:
                yield self._progress.get_nowait()

    def kill(self) -> None:
        for process in multiprocessing.active_children():
            process.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)


def _explained(error: BaseException | None) -> BaseException | None:
    if not isinstance(error, BrokenProcessPool):
        return error
    return WeftError(
        "a worker process died: out of memory, or run() was called by a script without "
        "an `if __name__ == '__main__':` guard; the same call goes on from here"
    )
