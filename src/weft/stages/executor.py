"""How the missing stages of a run are done: what every executor is asked for, and the one loop that
asks it.

An executor only carries stages out and says how far each is. Which stage may start, what happens
after an error, and what is done twice is decided here, for all executors alike.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from weft.artifacts.atomic import new_directory
from weft.stages.graph import missing
from weft.stages.records import write_record
from weft.stages.stage import SCRATCH, STAGES, Report, Stage, Workspace

LOOK_EVERY = 0.25  # seconds between two looks at what an executor has to say


@dataclass(frozen=True)
class Bounds:
    """How many stages are under way at once: in all, and of those that use a GPU (None: as many)."""

    processes: int = 1
    gpu_stages: int | None = None

    def room(self, stage: Stage, under_way: Iterable[Stage]) -> bool:
        """Whether a stage may start beside those under way."""
        others = list(under_way)
        if len(others) >= self.processes:
            return False
        on_gpu = sum(one.uses_gpu for one in others)
        return not stage.uses_gpu or self.gpu_stages is None or on_gpu < self.gpu_stages


@dataclass(frozen=True)
class Progressed:
    """How far a stage under way is: `done` of `total` units."""

    key: str
    done: float
    total: float
    unit: str


@dataclass(frozen=True)
class Ended:
    """A stage has ended, well or with an error."""

    key: str
    error: BaseException | None = None


class Executor(Protocol):
    """Carries stages out: in processes of this machine, on the machines of a cluster, in place.

    It calls `execute` for each stage that it gets, wherever it likes; all that must be shared is
    the run's folder. It is entered before the first stage and left after the last.
    """

    @property
    def bounds(self) -> Bounds: ...

    def __enter__(self) -> Executor: ...

    def __exit__(self, *error: object) -> None: ...

    def submit(self, stage: Stage, run: Path) -> None:
        """Start a stage; there is room for it, and its parents are done."""
        ...

    def events(self, seconds: float) -> Iterable[Progressed | Ended]:
        """What happened since the last call, in order; waits so long at most for something."""
        ...

    def kill(self) -> None:
        """End all that is under way at once."""
        ...


@dataclass(frozen=True)
class StageEvent:
    """For whoever watches a run: a stage starts, is so far, is done."""

    kind: Literal["start", "progress", "done"]
    stage: Stage
    done: float = 0.0
    total: float = 1.0
    unit: str = ""


Watch = Callable[[StageEvent], None]


def execute(stage: Stage, run: Path, report: Report) -> None:
    """Do one stage, whose parents are done: its folder appears whole, or an error leaves none."""
    folder = stage.folder(run)
    scratch = run / SCRATCH / folder.name
    scratch.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with new_directory(folder) as out:
        stage.run(Workspace(run, out, scratch, report))
        write_record(stage, run, out, time.monotonic() - started)
    shutil.rmtree(scratch)


def run_stages(
    stages: Sequence[Stage], run: Path, executor: Executor, watch: Watch | None = None
) -> list[Stage]:
    """Do what is missing of `stages` and of what they rest on; returns what was done.

    The caller holds the folder (`stages.locking`). An error in one stage stops the run once the
    stages under way have ended; what is finished stays finished. An interrupt ends them at once:
    the same call goes on from their checkpoints.
    """
    done: list[Stage] = []
    while todo := missing(stages, run):
        for stage in todo:
            shutil.rmtree(stage.folder(run), ignore_errors=True)  # of a parent that is no more
        with executor:
            _Schedule(todo, run, executor, watch).drain()
        done += todo
    return done


class _Schedule:
    """The stages under way and those that wait."""

    def __init__(
        self, todo: list[Stage], run: Path, executor: Executor, watch: Watch | None
    ) -> None:
        self.run, self.executor, self.watch = run, executor, watch
        self.waiting = list(todo)
        self.under_way: dict[str, Stage] = {}
        self.error: BaseException | None = None

    def drain(self) -> None:
        try:
            while self.waiting or self.under_way:
                self._submit()
                for event in self.executor.events(LOOK_EVERY):
                    self._take(event)
        except BaseException:
            self.executor.kill()
            self._clear()
            raise
        if self.error is not None:
            raise self.error

    def _submit(self) -> None:
        open_keys = self.under_way.keys() | {stage.key for stage in self.waiting}
        for stage in list(self.waiting):
            if any(parent.key in open_keys for parent in stage.parents.values()):
                continue
            if not self.executor.bounds.room(stage, self.under_way.values()):
                continue
            self.waiting.remove(stage)
            self.under_way[stage.key] = stage
            self.executor.submit(stage, self.run)
            self._say(StageEvent("start", stage))  # it is under way: whoever stops now stops it

    def _take(self, event: Progressed | Ended) -> None:
        stage = self.under_way.get(event.key)
        if stage is None:
            return  # a word that comes after the end
        if isinstance(event, Progressed):
            self._say(StageEvent("progress", stage, event.done, event.total, event.unit))
            return
        del self.under_way[event.key]
        if event.error is None:
            self._say(StageEvent("done", stage, 1.0))
        else:  # start nothing more; the first error is the one to raise
            self.waiting = []
            self.error = self.error or event.error

    def _clear(self) -> None:
        """Take away what killed stages had half-written."""
        for stage in self.under_way.values():
            for part in (self.run / STAGES).glob(f".{stage.folder_name}.*.part*"):
                shutil.rmtree(part, ignore_errors=True)

    def _say(self, event: StageEvent) -> None:
        if self.watch is not None:
            self.watch(event)
