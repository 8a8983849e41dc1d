"""One line for the whole run, one for each stage under way."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from weft.artifacts.stages import Stage


class StageProgress:
    """Shows stages as they run; where output is no terminal, a line when each is done."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.live = sys.stderr.isatty()
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.live,
            transient=True,
        )
        self.tasks: dict[str, TaskID] = {}
        self.started: dict[str, float] = {}
        self.seen: dict[str, tuple[float, float]] = {}  # when and where progress was first told
        self.total: TaskID | None = None
        self.count = self.done = 0

    def __enter__(self) -> StageProgress:
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.progress.stop()

    def planned(self, count: int) -> None:
        """How many stages are still to do."""
        self.count = count
        if count:
            self.total = self.progress.add_task("stages", total=count, rate="")

    def watch(self, event: str, stage: Stage, done: float, total: float, unit: str) -> None:
        if event == "start":
            self.started[stage.key] = time.monotonic()
            self.tasks[stage.key] = self.progress.add_task(stage.label, total=None, rate="")
        elif event == "progress":
            now = time.monotonic()
            since, before = self.seen.setdefault(stage.key, (now, done))
            rate = f"{(done - before) / (now - since):,.0f} {unit}/s" if now > since else ""
            self.progress.update(self.tasks[stage.key], completed=done, total=total, rate=rate)
        elif event == "done":
            self.done += 1
            self.progress.remove_task(self.tasks.pop(stage.key))
            if self.total is not None:
                self.progress.advance(self.total)
            if not self.live:
                seconds = time.monotonic() - self.started[stage.key]
                sys.stderr.write(f"[{self.done}/{self.count}] {stage.label}: {seconds:.0f} s\n")
                sys.stderr.flush()


@contextmanager
def steps_progress(unit: str) -> Iterator[Callable[[int, int, float], None]]:
    """A bar for one training: give the yielded function to `report`. Where output is no
    terminal, a line every twentieth of the way."""
    shown = Progress(
        SpinnerColumn(),
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )
    started = time.monotonic()
    task = shown.add_task("training", total=None, rate="")
    told = [0]

    def report(step: int, steps: int, done: float) -> None:
        rate = done / max(1e-9, time.monotonic() - started)
        shown.update(task, completed=step, total=steps, rate=f"{rate:,.1f} {unit}/s")
        part = 20 * step // steps
        if shown.disable and part > told[0]:
            told[0] = part
            sys.stderr.write(f"step {step} of {steps}, {rate:,.1f} {unit}/s\n")
            sys.stderr.flush()

    with shown:
        yield report
