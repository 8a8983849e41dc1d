"""Tables of rows that are measured on several domains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from weft.evaluation.compare import holm
from weft.evaluation.domains import OverDomains, compare_over_domains, mean_over_domains
from weft.evaluation.result import Result
from weft.report.format import number, p_value, signed
from weft.report.model import Table
from weft.stages.stage import Stage
from weft.systems.common_stages import MASKED, RESULT
from weft.systems.mergerec.algorithm import FEATURED

METRICS = ("full/recall@10", "full/ndcg@10")
WORDS = ("Recall@10", "NDCG@10")


@dataclass(frozen=True)
class Line:
    """A row of such a table: its evaluation on each domain."""

    name: str
    stages: list[Stage]

    def results(self, run: Path, which: str = RESULT) -> list[Result]:
        return [Result.load(stage.folder(run) / which) for stage in self.stages]


def over_domains(
    title: str,
    about: str,
    lines: Sequence[Line],
    baseline: str,
    run: Path,
    which: str = RESULT,
    also: bool = False,
) -> Table:
    """Means over the domains, each row against one of them; with `also` the masked means too."""
    results = {line.name: line.results(run, which) for line in lines}
    versus = {
        name: [compare_over_domains(found, results[baseline], metric) for metric in METRICS]
        for name, found in results.items()
        if name != baseline
    }
    corrected = iter(holm([one.p for row in versus.values() for one in row]))
    rows = []
    for line in lines:
        name = line.name
        means = [mean_over_domains(results[name], metric).mean for metric in METRICS]
        row = [name.removeprefix(f"{title}: "), *map(number, means)]
        if name in versus:
            row += [_against(one, next(corrected)) for one in versus[name]]
        else:
            row += ["–", "–"]
        if also:
            masked = line.results(run, MASKED)
            row.append(" / ".join(number(mean_over_domains(masked, m).mean) for m in METRICS))
        rows.append(row)
    users = sum(len(one.values(METRICS[0])) for one in results[baseline])
    header = ["row", *WORDS, *(f"{word} − {baseline}" for word in WORDS)]
    return Table(
        title=title,
        about=f"{about} {users:,} users of {len(results[baseline])} domains; in brackets the "
        "difference's share and p after Holm's correction over this table.",
        header=[*header, "history masked"] if also else header,
        rows=rows,
    )


def spread(lines: Sequence[Line], run: Path) -> Table:
    """The same learning with several seeds."""
    rows, found = [], []
    for line in lines:
        results = line.results(run)
        means = [mean_over_domains(results, metric).mean for metric in METRICS]
        found.append(means)
        name = "the recipe's seed" if line.name == FEATURED else line.name
        rows.append([name, *map(number, means)])
    ranges = [f"{number(min(one))} … {number(max(one))}" for one in zip(*found, strict=True)]
    return Table(
        title="Seeds of the learning",
        about=f"Mean over the domains of {len(lines)} learnings that differ in their seed: probes' "
        "order, and which are held out. The models merged are the same.",
        header=["seed", *WORDS],
        rows=[*rows, ["least … most", *ranges]],
    )


def unseen_table(
    lines: Mapping[str, Sequence[Stage]], names: Sequence[str], start: float, run: Path
) -> Table:
    """Each domain by merges of all others' models."""
    results = {row: Line(row, list(stages)).results(run) for row, stages in lines.items()}
    said = {"start": f"all at {start:g}"}
    rows = [
        [name, *(_both([found[k]]) for found in results.values())] for k, name in enumerate(names)
    ]
    rows.append(["mean", *(_both(found) for found in results.values())])
    featured = results[FEATURED]
    others = {row: found for row, found in results.items() if row != FEATURED}
    versus = {
        row: compare_over_domains(featured, found, METRICS[0]) for row, found in others.items()
    }
    corrected = holm([one.p for one in versus.values()])
    tests = [_against(one, p) for one, p in zip(versus.values(), corrected, strict=True)]
    rows.append([f"{FEATURED} − it, Recall@10", *tests, "–"])
    return Table(
        title="Unseen domains",
        about="Recall@10 / NDCG@10 of each domain by a merge of all other domains' models, history "
        f"not masked; '{said['start']}' is where learning starts.",
        header=["left out", *(said.get(row, row) for row in results)],
        rows=rows,
    )


def _both(results: Sequence[Result]) -> str:
    return " / ".join(number(mean_over_domains(results, metric).mean) for metric in METRICS)


def _against(one: OverDomains, p: float) -> str:
    return f"{signed(one.difference)} ({one.relative:+.1%}, p {p_value(p)})".replace("-", "−")
