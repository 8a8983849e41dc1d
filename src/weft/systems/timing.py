"""How long stages take: from a few measured steps, corrected by what a run then takes."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from weft.stages.stage import Stage
from weft.systems.stages.base import DomainSizes, Work, pace_group_of, work_of

START = 1.0  # seconds of every stage beside its work: loading a backbone, reading, writing
PRIOR = 20.0  # seconds of work that the measured steps weigh against what stages took


@dataclass(frozen=True)
class Speeds:
    """Seconds of one core for each unit of work: measured here (`weft.systems.speed`), or a guess
    until the first stages have ended."""

    example: float = 0.05
    title: float = 0.002
    user: float = 0.01
    merge: float = 2.0
    measured: bool = False

    def seconds(self, work: Work) -> float:
        """Of so much work."""
        return (
            START
            + work.examples * self.example
            + work.titles * self.title
            + work.users * self.user
            + work.merges * self.merge
        )


@dataclass
class Pace:
    """The seconds of every stage of a run, better known with each that ends."""

    sizes: Mapping[str, DomainSizes]
    speeds: Speeds
    took: dict[str, tuple[float, float]] = field(default_factory=dict)  # kind -> (took, expected)

    def expected(self, stage: Stage) -> float:
        """Seconds, by the measured steps alone."""
        return self.speeds.seconds(work_of(stage, self.sizes))

    def seconds(self, stage: Stage) -> float:
        """Seconds of a stage, as stages of its kind took so far."""
        took, expected = self.took.get(pace_group_of(stage), (0.0, 0.0))
        if not self.speeds.measured and expected:
            return self.expected(stage) * took / expected
        return self.expected(stage) * (took + PRIOR) / (expected + PRIOR)

    def ended(self, stage: Stage, seconds: float) -> None:
        """A stage has taken so long."""
        took, expected = self.took.get(pace_group_of(stage), (0.0, 0.0))
        self.took[pace_group_of(stage)] = (took + seconds, expected + self.expected(stage))

    def left(self, stage: Stage, elapsed: float, share: float) -> float:
        """Seconds that a stage under way still takes, of which a share is done."""
        expected = self.seconds(stage)
        if share <= 0:
            return max(expected - elapsed, 0.1 * expected)
        whole = elapsed / share
        # Its own speed counts more the more of it is done; at first that is mostly loading.
        weight = min(1.0, share * 4)
        return (1 - share) * (weight * whole + (1 - weight) * max(expected, elapsed))


def makespan(
    waiting: Sequence[tuple[Stage, float]], under_way: Mapping[str, float], workers: int
) -> float:
    """Seconds until all is done: stages (with their seconds) start in their order, as soon as their
    parents are done and a worker is free; `under_way` are keys with the seconds they still take."""
    running = [(seconds, key) for key, seconds in under_way.items()]
    heapq.heapify(running)
    left = list(waiting)
    open_keys = {stage.key for stage, _ in left} | set(under_way)
    now = 0.0
    while left or running:
        for entry in _ready(left, open_keys):
            if len(running) >= max(1, workers):
                break
            left.remove(entry)
            heapq.heappush(running, (now + entry[1], entry[0].key))
        if not running:  # parents that are not there: nothing more can be said
            return now
        now, key = heapq.heappop(running)
        open_keys.discard(key)
    return now


def _ready(left: Iterable[tuple[Stage, float]], open_keys: set[str]) -> list[tuple[Stage, float]]:
    return [
        entry
        for entry in left
        if not any(parent.key in open_keys for parent in entry[0].parents.values())
    ]
