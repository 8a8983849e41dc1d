"""From results to the rows of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from weft.evaluation.compare import (
    Comparison,
    Runs,
    common_metrics,
    compare_table,
    estimate,
    holm,
    summarise_seeds,
)
from weft.evaluation.result import Result
from weft.report.model import (
    ReportedMean,
    ResultRow,
    RowContrast,
    SeedSpread,
    TargetReport,
    Versus,
)
from weft.report.serving import RowInfo, choose_serving, few_users

HEADLINE = ("ndcg@1", "ndcg@5", "full/ndcg@10", "full/recall@10")
"""The default headline: the first three of these that were measured."""


def target_report(
    results: Mapping[str, Runs],
    baseline: str,
    *,
    info: Mapping[str, RowInfo] | None = None,
    headline: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    contrasts: Sequence[tuple[str, str, str]] = (),
) -> TargetReport:
    """The rows of one target domain, in the order of `results`, each against the baseline.

    A value of `results` is a result, or a list of them over seeds: then a row gives each
    user's mean over the seeds, and the spread of the seeds beside it. `info` describes rows by
    name. Holm's correction runs over rows × `headline`; for the other `metrics` over
    rows × all metrics, which is the price of picking one of them afterwards.

    `contrasts` are further questions: (row, row to compare it with, what the difference shows).
    A contrast is left out unless both of its rows are there.

    Where rows have a cost (see `RowInfo`) the row to serve is chosen among them, on the first
    headline metric.
    """
    info = {row: (info or {}).get(row, RowInfo()) for row in results}
    names = list(metrics) if metrics else common_metrics(results)
    shown = list(headline or [m for m in HEADLINE if m in names][:3] or names[:3])
    names = list(dict.fromkeys([*names, *shown]))
    table = compare_table(results, baseline, names)
    family = compare_table(results, baseline, shown)
    rows = [
        ResultRow(
            name=name,
            about=info[name].about,
            metrics={m: ReportedMean(**asdict(estimate(runs, m))) for m in names},
            versus={o.metric: _versus(o) for o in (*table.get(name, []), *family.get(name, []))},
            seeds=_seeds(runs, names),
            warnings=list(info[name].warnings),
        )
        for name, runs in results.items()
    ]
    base = results[baseline]
    protocol = (base if isinstance(base, Result) else base[0]).protocol
    return TargetReport(
        domain=protocol.domain,
        protocol=protocol,
        baseline=baseline,
        headline=tuple(shown),
        rows=rows,
        contrasts=_contrasts(results, contrasts, shown),
        serving=choose_serving(protocol.domain, results, info, shown[0])
        if any(one.cost is not None for one in info.values())
        else None,
        cautions=few_users(protocol.users),
    )


def _contrasts(
    results: Mapping[str, Runs], asked: Sequence[tuple[str, str, str]], metrics: list[str]
) -> list[RowContrast]:
    """Each asked pair on each metric, Holm-corrected over all of them."""
    measured = [one for one in asked if one[0] in results and one[1] in results]
    tables = [
        compare_table({row: results[row], against: results[against]}, against, metrics)[row]
        for row, against, _ in measured
    ]
    corrected = iter(holm([one.p_t for table in tables for one in table]))
    return [
        RowContrast(
            row=row,
            against=against,
            about=about,
            versus={one.metric: _versus(replace(one, p_holm=next(corrected))) for one in table},
        )
        for (row, against, about), table in zip(measured, tables, strict=True)
    ]


def _versus(one: Comparison) -> Versus:
    return Versus(**{field: getattr(one, field) for field in Versus.model_fields})


def _seeds(runs: Runs, metrics: list[str]) -> dict[str, SeedSpread]:
    if isinstance(runs, Result) or len(runs) < 2:
        return {}
    return {
        metric: SeedSpread(**asdict(spread))
        for metric, spread in summarise_seeds(runs, metrics).items()
    }
