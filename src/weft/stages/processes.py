"""Running stages in worker processes, one thread each.

Two processes of one thread beat one process of two threads on small models (nothing waits at
barriers), and results do not depend on how many cores a machine has.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty
from typing import Any

from weft.errors import WeftError
from weft.stages.stage import Stage, Task, execute, missing, prepare

Event = tuple[str, float, float, str]  # stage name, done, total, unit
Watch = Callable[[str, Stage, float, float, str], None]
"""Called with an event (start, progress, done), its stage, done, total and unit."""

TELL_EVERY = 0.5  # seconds between two words of one worker
LOOK_EVERY = 0.25  # seconds between two looks at what workers have said

_events: Queue[Event] | None = None


def _die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, however it dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)


def _start_worker(events: Queue[Event], threads: int, parent: int) -> None:
    global _events
    _events = events
    events.cancel_join_thread()  # what was not told yet must not keep a worker from ending
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the main process decides, and kills
    _die_with_parent(parent)
    import torch

    torch.set_num_threads(threads)


def _work(
    name: str,
    work: Callable[[Task], None],
    settings: dict[str, Any],
    parents: dict[str, Path],
    folder: Path,
) -> None:
    last = 0.0

    def say(done: float, total: float, unit: str) -> None:
        nonlocal last
        now = time.monotonic()
        if _events is not None and (now - last > TELL_EVERY or done >= total):
            last = now
            _events.put((name, done, total, unit))

    execute(work, settings, parents, folder, say)


def run_stages(
    stages: Sequence[Stage],
    run: Path,
    *,
    workers: int,
    threads: int = 1,
    watch: Watch | None = None,
) -> list[Stage]:
    """Do what is missing of `stages` and of what they rest on; returns what was done.

    The caller holds the folder (`stages.locked`). An error in one stage stops the run once the
    stages under way have ended; what is finished stays finished. An interrupt ends them at once:
    the same call goes on from their checkpoints.
    """
    done: list[Stage] = []
    while todo := missing(stages, run):
        for stage in todo:
            shutil.rmtree(stage.folder(run), ignore_errors=True)  # of a parent that is no more
        _Pool(todo, run, min(workers, len(todo)), threads, watch).drain()
        done += todo
    return done


class _Pool:
    """The stages under way and those that wait."""

    def __init__(
        self, todo: list[Stage], run: Path, workers: int, threads: int, watch: Watch | None
    ) -> None:
        self.run, self.workers, self.threads, self.watch = run, workers, threads, watch
        self.waiting = list(todo)
        self.by_name = {stage.name: stage for stage in todo}
        self.under_way: dict[Future[None], Stage] = {}
        self.error: BaseException | None = None

    def drain(self) -> None:
        context = multiprocessing.get_context("spawn")
        events: Queue[Event] = context.Queue()
        start = (events, self.threads, os.getpid())
        # Thread pools read these when they are first imported, in the child.
        os.environ["OMP_NUM_THREADS"] = os.environ["POLARS_MAX_THREADS"] = str(self.threads)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        pool = ProcessPoolExecutor(self.workers, context, _start_worker, start)
        try:
            while self.waiting or self.under_way:
                self._submit(pool)
                done, _ = wait(self.under_way, timeout=LOOK_EVERY, return_when=FIRST_COMPLETED)
                self._pass_on(events)  # also after an error: a full queue would hold a worker
                for future in done:
                    self._finish(future)
        except BaseException:
            for process in multiprocessing.active_children():
                process.kill()
            pool.shutdown(wait=True, cancel_futures=True)
            self._clear()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        if isinstance(self.error, BrokenProcessPool):
            raise WeftError(
                "a worker process died: out of memory, or run() was called by a script without "
                "an `if __name__ == '__main__':` guard; the same call goes on from here"
            ) from None
        if self.error is not None:
            raise self.error

    def _clear(self) -> None:
        """Take away what killed workers had half-written."""
        for stage in self.under_way.values():
            for left in (self.run / "stages").glob(f".{stage.name}.*.part*"):
                shutil.rmtree(left, ignore_errors=True)

    def _submit(self, pool: ProcessPoolExecutor) -> None:
        busy = {stage.key for stage in self.under_way.values()}
        open_keys = busy | {stage.key for stage in self.waiting}
        for stage in list(self.waiting):
            if len(self.under_way) >= self.workers:
                return
            if any(parent.key in open_keys for parent in stage.parents.values()):
                continue
            try:
                future = pool.submit(_work, stage.name, *prepare(stage, self.run))
            except BrokenProcessPool as error:
                self._stop(error)
                return
            self.waiting.remove(stage)
            self.under_way[future] = stage
            self._tell("start", stage, 0, 1, "")

    def _finish(self, future: Future[None]) -> None:
        stage = self.under_way.pop(future)
        error = future.exception()
        if error is None:
            self._tell("done", stage, 1, 1, "")
        else:
            self._stop(error)

    def _stop(self, error: BaseException) -> None:
        """Start nothing more; the first error is the one to raise."""
        self.waiting = []
        self.error = self.error or error

    def _pass_on(self, events: Queue[Event]) -> None:
        with suppress(Empty):
            while True:
                name, done, total, unit = events.get_nowait()
                self._tell("progress", self.by_name[name], done, total, unit)

    def _tell(self, event: str, stage: Stage, done: float, total: float, unit: str) -> None:
        if self.watch is not None:
            self.watch(event, stage, done, total, unit)
