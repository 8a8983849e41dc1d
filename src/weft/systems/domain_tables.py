"""Tables of rows that are measured on several domains, each of which counts alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from weft.evaluation.compare import holm
from weft.evaluation.domains import OverDomains, compare_over_domains, mean_over_domains
from weft.evaluation.result import Result
from weft.report.format import number, p_value, signed
from weft.report.model import ReportTable
from weft.systems.stages.evaluation import EvaluationStage

METRICS: Mapping[str, str] = {"full/recall@10": "Recall@10", "full/ndcg@10": "NDCG@10"}
"""Metric of a result -> its name in the tables."""


@dataclass(frozen=True)
class DomainsRow:
    """A row of such a table: its evaluation on each domain."""

    name: str
    stages: list[EvaluationStage]

    def results(self, run: Path, *, masked: bool = False) -> list[Result]:
        """Its ranks on each domain; `masked` without the items of a user's history."""
        return [stage.result(run, masked=masked) for stage in self.stages]


def domains_table(
    title: str,
    about: str,
    rows: Sequence[DomainsRow],
    baseline: str,
    run: Path,
    *,
    masked: bool = False,
    masked_too: bool = False,
) -> ReportTable:
    """Means over the domains, each row against the row `baseline`: of rankings without the items
    of a user's history (`masked`), or of those with them, and the others in one more column
    (`masked_too`)."""
    results = {row.name: row.results(run, masked=masked) for row in rows}
    differences = {
        name: [compare_over_domains(one, results[baseline], metric) for metric in METRICS]
        for name, one in results.items()
        if name != baseline
    }
    corrected = iter(holm([one.p for row in differences.values() for one in row]))
    cells = []
    for row in rows:
        line = [row.name.removeprefix(f"{title}: "), *domain_means(results[row.name])]
        if row.name in differences:
            line += [difference_words(one, next(corrected)) for one in differences[row.name]]
        else:
            line += ["–" for _ in METRICS]
        if masked_too:
            line.append(" / ".join(domain_means(row.results(run, masked=True))))
        cells.append(line)
    names = METRICS.values()
    users = sum(len(one.values(next(iter(METRICS)))) for one in results[baseline])
    header = ["row", *names, *(f"{name} − {baseline}" for name in names)]
    return ReportTable(
        title=title,
        about=f"{about} {users:,} users of {len(results[baseline])} domains; in brackets the "
        "difference's share and p after Holm's correction over this table.",
        header=[*header, "history masked"] if masked_too else header,
        rows=cells,
    )


def domain_means(results: Sequence[Result]) -> list[str]:
    """Each metric's mean over the domains, as the tables print it."""
    return [number(mean_over_domains(results, metric).mean) for metric in METRICS]


def difference_words(one: OverDomains, p: float) -> str:
    """A difference, its share of the other, and its corrected p: `+.0123 (+4.5%, p .012)`."""
    return f"{signed(one.difference)} ({one.relative:+.1%}, p {p_value(p)})".replace("-", "−")
