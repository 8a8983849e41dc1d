"""Running stages in worker processes, one thread each.

Two processes of one thread beat one process of two threads on small models (nothing waits at
barriers), and results do not depend on how many cores a machine has.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

from weft.artifacts.stages import Stage, Task, execute, locked, missing, prepare
from weft.errors import WeftError

Event = tuple[str, float, float, str]  # stage name, done, total, unit
Watch = Callable[[str, Stage, float, float, str], None]
"""Called with an event (start, progress, done), its stage, done, total and unit."""

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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process decides
    _die_with_parent(parent)
    import torch

    torch.set_num_threads(threads)


def _work(
    name: str,
    work: Callable[[Task], None],
    settings: dict[str, Any],
    parents: dict[str, Path],
    folder: Path,
) -> float:
    started = time.monotonic()

    def say(done: float, total: float, unit: str) -> None:
        assert _events is not None
        _events.put((name, done, total, unit))

    execute(work, settings, parents, folder, say)
    return time.monotonic() - started


def run_stages(
    stages: Sequence[Stage],
    run: Path,
    *,
    workers: int,
    threads: int = 1,
    watch: Watch | None = None,
) -> dict[str, float]:
    """Do what is missing of `stages` and of what they rest on; returns label -> seconds.

    An error in one stage stops the run once the stages under way have ended; what is finished
    stays finished.
    """
    with locked(run):
        todo = missing(stages, run)
        if not todo:
            return {}
        return _Pool(todo, run, min(workers, len(todo)), threads, watch).drain()


class _Pool:
    """The stages under way and those that wait."""

    def __init__(
        self, todo: list[Stage], run: Path, workers: int, threads: int, watch: Watch | None
    ) -> None:
        self.run, self.workers, self.threads, self.watch = run, workers, threads, watch
        self.waiting = todo
        self.by_name = {stage.name: stage for stage in todo}
        self.seconds: dict[str, float] = {}
        self.under_way: dict[Future[float], Stage] = {}

    def drain(self) -> dict[str, float]:
        context = multiprocessing.get_context("spawn")
        events: Queue[Event] = context.Queue()
        start = (events, self.threads, os.getpid())
        # Thread pools read these when they are first imported, in the child.
        os.environ["OMP_NUM_THREADS"] = os.environ["POLARS_MAX_THREADS"] = str(self.threads)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        with ProcessPoolExecutor(self.workers, context, _start_worker, start) as pool:
            try:
                while self.waiting or self.under_way:
                    self._submit(pool)
                    done, _ = wait(self.under_way, timeout=0.2, return_when=FIRST_COMPLETED)
                    self._pass_on(events)
                    for future in done:
                        self._finish(future)
            except BrokenProcessPool:
                raise WeftError(
                    "a worker process died (out of memory?); run again to go on from here"
                ) from None
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        return self.seconds

    def _submit(self, pool: ProcessPoolExecutor) -> None:
        busy = {stage.key for stage in self.under_way.values()}
        open_keys = busy | {stage.key for stage in self.waiting}
        for stage in list(self.waiting):
            if len(self.under_way) >= self.workers:
                return
            if any(parent.key in open_keys for parent in stage.parents.values()):
                continue
            self.waiting.remove(stage)
            future = pool.submit(_work, stage.name, *prepare(stage, self.run))
            self.under_way[future] = stage
            self._tell("start", stage, 0, 1, "")

    def _finish(self, future: Future[float]) -> None:
        stage = self.under_way.pop(future)
        seconds = future.result()
        self.seconds[stage.label or stage.name] = round(seconds, 1)
        self._tell("done", stage, 1, 1, "")

    def _pass_on(self, events: Queue[Event]) -> None:
        while not events.empty():
            name, done, total, unit = events.get()
            self._tell("progress", self.by_name[name], done, total, unit)

    def _tell(self, event: str, stage: Stage, done: float, total: float, unit: str) -> None:
        if self.watch is not None:
            self.watch(event, stage, done, total, unit)
