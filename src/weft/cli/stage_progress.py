"""A run as it goes: what is done, what is under way, how long it still takes."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TextIO

from rich.live import Live
from rich.text import Text

from weft.report.console import SafeConsole
from weft.safe_text import line as one_line
from weft.stages.executor import StageEvent
from weft.stages.stage import Stage
from weft.systems.estimate import RunEstimate
from weft.systems.timing import makespan

PER_SECOND = 2  # how often a terminal is written
EVERY = 30.0  # seconds between two lines in a file
LEAST_LABEL = 12  # letters of a stage's name that are shown beside its numbers


@dataclass
class UnderWay:
    """A stage at work; `amount` of `total` units are done, none known before its first word."""

    stage: Stage
    began: float
    amount: float = 0.0
    total: float = 0.0
    unit: str = ""
    first: tuple[float, float] | None = None  # when it first said how far it is, and how far

    @property
    def share(self) -> float:
        return min(1.0, self.amount / self.total) if self.total > 0 else 0.0

    def numbers(self, now: float) -> list[str]:
        """How far it is, in fewer and fewer words."""
        if not self.total:
            return ["starting", ""]
        done = f"{self.amount:,.0f} of {self.total:,.0f}"
        words = [f"{done} {self.unit}", done, f"{self.share:.0%}"]
        if self.first is not None and now - self.first[0] > 1:
            rate = (self.amount - self.first[1]) / (now - self.first[0])
            words.insert(0, f"{done} {self.unit}, {rate:,.{1 if rate < 10 else 0}f}/s")
        return words


class Tracker:
    """What has happened in a run so far, and what that comes to."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.estimate: RunEstimate | None = None
        self.began = clock()
        self.waiting: list[Stage] = []
        self.under_way: dict[str, UnderWay] = {}
        self.done = self.total = 0

    def planned(self, estimate: RunEstimate) -> None:
        """What there is to do."""
        self.estimate = estimate
        self.began = self.clock()
        self.waiting = list(estimate.todo)
        self.done, self.total = estimate.done, estimate.stages

    def watch(self, event: StageEvent) -> None:
        """An event of `run_stages`."""
        now, stage = self.clock(), event.stage
        if event.kind == "start":
            self.waiting = [one for one in self.waiting if one.key != stage.key]
            self.under_way[stage.key] = UnderWay(stage, now)
        elif event.kind == "progress" and stage.key in self.under_way:
            one = self.under_way[stage.key]
            one.amount, one.total, one.unit = event.done, event.total, event.unit
            one.first = one.first or (now, event.done)
        elif event.kind == "done":
            one = self.under_way.pop(stage.key)
            self.done += 1
            if self.estimate is not None:
                self.estimate.pace.ended(stage, now - one.began)

    @property
    def summary(self) -> str:
        """`12 of 27 stages done`."""
        if not self.total:
            return "stopped before the first stage"
        return f"{self.done} of {self.total} stages done"

    def left(self) -> float | None:
        """Seconds until all is done; None as long as nothing was measured."""
        if self.estimate is None:
            return None
        pace, now = self.estimate.pace, self.clock()
        if not (pace.speeds.measured or pace.took):
            return None
        running = {
            key: pace.left(one.stage, now - one.began, one.share)
            for key, one in self.under_way.items()
        }
        waiting = [(stage, pace.seconds(stage)) for stage in self.waiting]
        return makespan(waiting, running, self.estimate.workers)

    def head(self, width: int = 80) -> str:
        """The whole run in one line."""
        left = self.left()
        elapsed = clock_time(self.clock() - self.began)
        rest = "time left not known yet" if left is None else f"about {clock_time(left)} left"
        whole = f"{self.summary}, {elapsed} so far, {rest}"
        if len(whole) <= width:
            return whole
        return f"{self.done}/{self.total}" + ("" if left is None else f", {clock_time(left)} left")

    def lines(self, width: int) -> list[str]:
        """The run, then every stage under way, none longer than `width`: names are shortened,
        numbers never."""
        now = self.clock()
        shown = [
            _fitted(one_line(one.stage.label), one.numbers(now), width) for one in self._stages()
        ]
        return [self.head(width), *shown]

    def plain(self) -> str:
        """The same in one line of any length, for a file."""
        now = self.clock()
        parts = [f"{one.stage.label}: {one.numbers(now)[0]}" for one in self._stages()]
        return "; ".join([self.head(10_000), *parts])

    def _stages(self) -> list[UnderWay]:
        return list(self.under_way.values())  # a copy: another thread shows them


def clock_time(seconds: float) -> str:
    """`0:09:40`."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _fitted(label: str, numbers: list[str], width: int) -> str:
    room = min(len(label), LEAST_LABEL)
    chosen = next((one for one in numbers if 4 + room + len(one) <= width), "")
    most = max(0, width - 4 - len(chosen))
    if len(label) > most:
        label = label[: max(0, most - 1)] + "…"
    return f"  {label}{' ' * (width - 2 - len(label) - len(chosen))}{chosen}"[:width].rstrip()


class StageProgress:
    """Shows a run: live in a terminal; elsewhere a line when a stage starts and ends, and one of
    progress every half minute."""

    def __init__(self, stream: TextIO | None = None, every: float = EVERY) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.console = SafeConsole(file=self.stream)
        self.tracker = Tracker()
        self.live: Live | None = None
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self.live = Live(
                get_renderable=self._shown, console=self.console, transient=True,
                refresh_per_second=PER_SECOND,
            )  # fmt: skip
        self._every = every
        self._ended = threading.Event()
        self._beat = threading.Thread(target=self._beats, daemon=True)

    def __enter__(self) -> StageProgress:
        if self.live is not None:
            self.live.start()
        else:
            self._beat.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self.live is not None:
            self.live.stop()  # takes the lines away and shows the cursor again

    def planned(self, estimate: RunEstimate) -> None:
        """Say what there is to do."""
        self.tracker.planned(estimate)
        for line in estimate.lines():
            self._say(line)

    def watch(self, event: StageEvent) -> None:
        """Take an event of `run_stages`."""
        stage = event.stage
        under_way = self.tracker.under_way.get(stage.key)
        self.tracker.watch(event)
        if self.live is not None:
            return
        if event.kind == "start":
            self._say(f"start {stage.label}")
        elif event.kind == "done" and under_way is not None:
            seconds = self.tracker.clock() - under_way.began
            place = f"[{self.tracker.done}/{self.tracker.total}]"
            self._say(f"{place} {stage.label}: {seconds:.0f} s")

    def _say(self, line: str) -> None:
        if self.live is not None:
            self.console.print(Text(one_line(line)))
        else:
            self.stream.write(one_line(line) + "\n")
            self.stream.flush()

    def _beats(self) -> None:
        while not self._ended.wait(self._every):
            if self.tracker.total:
                self._say(self.tracker.plain())

    def _shown(self) -> Text:
        if not self.tracker.total:
            return Text("counting what there is to do")
        lines = self.tracker.lines(self.console.width - 1)
        return Text("\n".join(lines), no_wrap=True, overflow="crop")
