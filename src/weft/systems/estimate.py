"""What a run will cost, before its first stage: stages, examples, users, minutes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from weft.artifacts.atomic import read_json, write_json
from weft.artifacts.hashing import hash_json
from weft.data.domain import Domain
from weft.errors import WeftError
from weft.report.format import seconds as duration
from weft.stages.stage import Stage, missing, reached
from weft.systems.common_stages import domain_in, open_domain
from weft.systems.pace import Pace, Rates, makespan
from weft.systems.plan import Plan
from weft.systems.probe import measure_rates
from weft.systems.work import MEASURING, TRAINING, Census, Work, work_of

CENSUS = "census.json"


@dataclass(frozen=True)
class Outlook:
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

    def _of(self, names: Sequence[str]) -> tuple[int, Work]:
        chosen = [stage for stage in self.todo if stage.work.__name__ in names]
        whole = Work()
        for stage in chosen:
            whole += work_of(stage, self.pace.census)
        return len(chosen), whole

    def _trainings(self) -> str:
        count, work = self._of(TRAINING)
        return f"{_count(count, 'training')} on {work.examples:,.0f} examples" if count else ""

    def _evaluations(self) -> str:
        count, work = self._of(MEASURING)
        return f"{_count(count, 'evaluation')} of {work.users:,.0f} users" if count else ""

    def _others(self) -> str:
        names = Counter(stage.work.__name__ for stage in self.todo)
        others = sum(n for name, n in names.items() if name not in (*TRAINING, *MEASURING))
        return f"{others} short ones" if others else ""

    def _time(self) -> str:
        workers = _count(self.workers, "worker")
        rates = self.pace.rates
        if not rates.measured:
            return f"with {workers}; how long is known when the first stages have ended"
        return (
            f"about {duration(self.seconds)} with {workers} (measured here: {1 / rates.example:,.0f} "
            f"training examples/s and core in {self.precision})"
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def look_ahead(
    plan: Plan, stages: Sequence[Stage], folder: Path, workers: int, *, strict: bool = False
) -> Outlook:
    """What is missing in a run's folder, counted and timed. What is measured is kept in the folder
    if it is there; nothing else is written. `strict`: what a stage would fail on is a `WeftError`
    here already, where a few steps show it."""
    todo = missing(stages, folder)
    cache = folder if folder.is_dir() else None
    precision = str(plan.scoring["precision"])
    total = len(reached(stages))
    if not todo:
        return Outlook(total, todo, workers, Pace({}, Rates()), precision)
    domains = _Domains(plan, folder)
    census = domains.census(cache)
    first = next(iter(plan.domains))
    learns = any(stage.work.__name__ in (*TRAINING, *MEASURING) for stage in todo)
    rates = (
        measure_rates(plan, lambda: domains.open(first), cache, strict=strict)
        if learns
        else Rates()
    )
    return Outlook(total, todo, workers, Pace(census, rates), precision)


class _Domains:
    """A plan's domains, each opened once: from its finished stage, or as that stage will."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        self.opened: dict[str, Domain] = {}

    def open(self, name: str) -> Domain:
        if name not in self.opened:
            stage = self.plan.domains[name]
            there = stage.folder(self.folder)
            settings = {**stage.settings, **stage.places}
            self.opened[name] = domain_in(there) if there.is_dir() else open_domain(settings)[0]
        return self.opened[name]

    def census(self, cache: Path | None) -> dict[str, Census]:
        """The sizes of every domain, kept in `cache`."""
        names = list(self.plan.domains)
        key = hash_json([[stage.key for stage in self.plan.domains.values()], self.plan.split])
        path = None if cache is None else cache / CENSUS
        if path is not None and path.is_file():
            try:
                found = read_json(path)
                if found["key"] == key:
                    return {name: Census(**sizes) for name, sizes in found["domains"].items()}
            except (WeftError, TypeError, KeyError, AttributeError):
                pass  # counted anew
        census = {name: Census.of(self.open(name), self.plan.split) for name in names}
        if path is not None:
            sizes = {name: vars(one) for name, one in census.items()}
            write_json(path, {"key": key, "domains": sizes})
        return census
