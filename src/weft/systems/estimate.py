"""What a run will cost, before its first stage: stages, examples, users, minutes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from weft.artifacts.atomic import read_json, write_json
from weft.artifacts.hashing import hash_json
from weft.data.domain import Domain
from weft.errors import WeftError
from weft.report.format import count_words
from weft.report.format import seconds as duration
from weft.stages.graph import missing, reached
from weft.stages.stage import Stage
from weft.systems.plan import Plan
from weft.systems.speed import measure_speeds
from weft.systems.stages.base import DomainSizes, Group, Work, group_of, work_of
from weft.systems.stages.weights import split_json
from weft.systems.timing import Pace, Speeds, makespan

CENSUS = "census.json"


@dataclass(frozen=True)
class RunEstimate:
    """The stages that a run still has to do, and how long they will take."""

    stages: int  # in all
    todo: list[Stage]
    workers: int
    pace: Pace
    precision: str

    @property
    def done(self) -> int:
        """Stages that are done already."""
        return self.stages - len(self.todo)

    @property
    def seconds(self) -> float:
        """Until all is done."""
        costs = [(stage, self.pace.seconds(stage)) for stage in self.todo]
        return makespan(costs, {}, self.workers)

    def lines(self) -> list[str]:
        """What a person should know before it starts."""
        first = f"{self.stages} stages"
        if self.done:
            first = f"{self.done} of {self.stages} stages done already, {len(self.todo)} to do"
        parts = [self._trainings(), self._evaluations(), self._others()]
        lines = [": ".join([first, ", ".join(filter(None, parts))]) if self.todo else first]
        if self.todo:
            lines.append(self._time())
        return lines

    def _group(self, group: Group) -> tuple[int, Work]:
        chosen = [stage for stage in self.todo if group_of(stage) == group]
        whole = Work()
        for stage in chosen:
            whole += work_of(stage, self.pace.sizes)
        return len(chosen), whole

    def _trainings(self) -> str:
        count, work = self._group("training")
        return f"{count_words(count, 'training')} on {work.examples:,.0f} examples" if count else ""

    def _evaluations(self) -> str:
        count, work = self._group("evaluation")
        return f"{count_words(count, 'evaluation')} of {work.users:,.0f} users" if count else ""

    def _others(self) -> str:
        count, _ = self._group("other")
        return f"{count} short ones" if count else ""

    def _time(self) -> str:
        workers = count_words(self.workers, "worker")
        speeds = self.pace.speeds
        if not speeds.measured:
            return f"with {workers}; how long is known when the first stages have ended"
        return (
            f"about {duration(self.seconds)} with {workers} (measured here: {1 / speeds.example:,.0f} "
            f"training examples/s and core in {self.precision})"
        )


def estimate_run(
    plan: Plan, stages: Sequence[Stage], folder: Path, workers: int, *, strict: bool = False
) -> RunEstimate:
    """What is missing in a run's folder, counted and timed. What is measured is kept in the folder
    if it is there; nothing else is written. `strict`: what a stage would fail on is a `WeftError`
    here already, where a few steps show it."""
    todo = missing(stages, folder)
    cache = folder if folder.is_dir() else None
    precision = plan.scoring.precision
    total = len(reached(stages))
    if not todo:
        return RunEstimate(total, todo, workers, Pace({}, Speeds()), precision)
    domains = _Domains(plan, folder)
    sizes = domains.sizes(cache)
    first = next(iter(plan.domains))
    learns = any(group_of(stage) != "other" for stage in todo)
    speeds = Speeds()
    if learns:
        speeds = measure_speeds(plan, lambda: domains.open(first), cache, strict=strict)
    return RunEstimate(total, todo, workers, Pace(sizes, speeds), precision)


class _Domains:
    """A plan's domains, each opened once: from its finished stage, or as that stage will."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        self.opened: dict[str, Domain] = {}

    def open(self, name: str) -> Domain:
        if name not in self.opened:
            stage = self.plan.domains[name]
            done = stage.folder(self.folder).is_dir()
            self.opened[name] = stage.domain(self.folder) if done else stage.open()[0]
        return self.opened[name]

    def sizes(self, cache: Path | None) -> dict[str, DomainSizes]:
        """The sizes of every domain, read from `cache` if they are there."""
        split = self.plan.split
        keys = [stage.key for stage in self.plan.domains.values()]
        key = hash_json([keys, split_json(split)])
        path = None if cache is None else cache / CENSUS
        if path is not None and path.is_file():
            try:
                stored = read_json(path)
                if stored["key"] == key:
                    domains = stored["domains"].items()
                    return {name: DomainSizes(**sizes) for name, sizes in domains}
            except (WeftError, TypeError, KeyError, AttributeError):
                pass  # counted anew
        sizes = {name: DomainSizes.of(self.open(name), split) for name in self.plan.domains}
        if path is not None:
            values = {name: vars(one) for name, one in sizes.items()}
            write_json(path, {"key": key, "domains": values})
        return sizes
