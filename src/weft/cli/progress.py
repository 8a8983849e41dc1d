"""A bar for one training."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from weft.cli.out import console as safe_console
from weft.cli.out import say


@contextmanager
def steps_progress(unit: str) -> Iterator[Callable[[int, int, float], None]]:
    """A bar for one training: give the yielded function to `report`. Where output is no
    terminal, a line every twentieth of the way."""
    shown = Progress(
        SpinnerColumn(),
        TextColumn("training"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=safe_console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
        refresh_per_second=2,
        expand=True,
    )
    started = time.monotonic()
    task = shown.add_task("training", total=None, rate="")
    reported = [0]

    def report(step: int, steps: int, done: float) -> None:
        rate = done / max(1e-9, time.monotonic() - started)
        shown.update(task, completed=step, total=steps, rate=f"{rate:,.1f} {unit}/s")
        part = 20 * step // steps
        if shown.disable and part > reported[0]:
            reported[0] = part
            say(f"step {step} of {steps}, {rate:,.1f} {unit}/s")

    with shown:
        yield report
