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
from weft.report.model import Contrast, DomainReport, Estimate, Row, RowWarning, Spread, Versus
from weft.report.serving import choose_serving, few_users

HEADLINE = ("ndcg@1", "ndcg@5", "full/ndcg@10", "full/recall@10")
"""Shown first where nothing else is asked for: the first three of these that were measured."""


def domain_report(
    results: Mapping[str, Runs],
    baseline: str,
    *,
    about: Mapping[str, str] | None = None,
    headline: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    contrasts: Sequence[tuple[str, str, str]] = (),
    costs: Mapping[str, int] | None = None,
    folders: Mapping[str, str] | None = None,
    warnings: Mapping[str, Sequence[RowWarning]] | None = None,
) -> DomainReport:
    """The rows of one target domain, in the order of `results`, each against the baseline.

    A value of `results` is a result, or a list of them over seeds: then a row gives each
    user's mean over the seeds, and the spread of the seeds beside it. `about` says in a few
    words what a row is (how it was trained, what it controls for). Holm's correction runs over
    rows × `headline`; for the other `metrics`, which nobody should pick from after the fact
    without a price, over rows × all metrics.

    `contrasts` are further questions: (row, row to compare it with, what the difference tells).
    One whose rows aren't both there is left out.

    With `costs` (row -> its place in the order of cost, of the rows that could be served) the row
    to serve is chosen among them, on the first headline metric; `folders` are where their
    recommenders lie, and a row with one of the `warnings` that spoil is left out.
    """
    warnings = warnings or {}
    names = list(metrics) if metrics else common_metrics(results)
    shown = list(headline or [m for m in HEADLINE if m in names][:3] or names[:3])
    names = list(dict.fromkeys([*names, *shown]))
    table = compare_table(results, baseline, names)
    family = compare_table(results, baseline, shown)
    rows = [
        Row(
            name=name,
            about=(about or {}).get(name, ""),
            metrics={m: Estimate(**asdict(estimate(runs, m))) for m in names},
            versus={o.metric: _versus(o) for o in (*table.get(name, []), *family.get(name, []))},
            seeds=_seeds(runs, names),
            warnings=list(warnings.get(name, [])),
        )
        for name, runs in results.items()
    ]
    base = results[baseline]
    protocol = (base if isinstance(base, Result) else base[0]).protocol
    return DomainReport(
        domain=protocol.domain,
        protocol=protocol,
        baseline=baseline,
        headline=tuple(shown),
        rows=rows,
        contrasts=_contrasts(results, contrasts, shown),
        serving=choose_serving(protocol.domain, results, costs, folders or {}, warnings, shown[0])
        if costs
        else None,
        cautions=few_users(protocol.users),
    )


def _contrasts(
    results: Mapping[str, Runs], asked: Sequence[tuple[str, str, str]], metrics: list[str]
) -> list[Contrast]:
    """Each asked pair on each metric, Holm-corrected over all of them."""
    found = [one for one in asked if one[0] in results and one[1] in results]
    tables = [
        compare_table({row: results[row], against: results[against]}, against, metrics)[row]
        for row, against, _ in found
    ]
    corrected = iter(holm([one.p_t for table in tables for one in table]))
    return [
        Contrast(
            row=row,
            against=against,
            about=about,
            versus={one.metric: _versus(replace(one, p_holm=next(corrected))) for one in table},
        )
        for (row, against, about), table in zip(found, tables, strict=True)
    ]


def _versus(one: Comparison) -> Versus:
    return Versus(**{field: getattr(one, field) for field in Versus.model_fields})


def _seeds(runs: Runs, metrics: list[str]) -> dict[str, Spread]:
    if isinstance(runs, Result) or len(runs) < 2:
        return {}
    return {
        metric: Spread(**asdict(spread))
        for metric, spread in summarise_seeds(runs, metrics).items()
    }
