"""The tables of the HTML page, as strings. Every foreign text goes through `esc`."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from weft.report.format import (
    VERDICT_MARK,
    footnotes,
    metric_label,
    number,
    p_value,
    seconds,
    seeds_range,
    signed,
    spent,
)
from weft.report.model import ResultRow, RowContrast, RunReport, TargetReport, Versus
from weft.safe_text import html


def esc(text: str) -> str:
    """Foreign text, safe as HTML content and as an attribute in quotes."""
    return html(text)


def overview(report: RunReport) -> str:
    """The featured row against each domain's baseline; empty without such a row."""
    metrics = report.headline_metrics()
    featured = [
        (domain, row)
        for domain in report.domains
        if (row := domain.row(report.featured)) is not None and row.name != domain.baseline
    ]
    if not featured or not metrics:
        return ""
    widest = {metric: _widest([row for _, row in featured], metric) for metric in metrics}
    body = "".join(
        f"<tr><th scope='row'>{esc(domain.domain)}"
        f"<small>against {esc(domain.baseline)}</small></th>"
        + "".join(
            _versus_cell(row, metric, widest[metric], metric_label(metric)) for metric in metrics
        )
        + "</tr>"
        for domain, row in featured
    )
    head = "".join(f"<th scope='col'>{metric_label(metric)}</th>" for metric in metrics)
    return (
        f"<h2>{esc(report.featured)} at a glance</h2>"
        "<div class='scroll'><table class='results'><thead><tr><th scope='col'>target domain</th>"
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def results_table(domain: TargetReport, featured: str) -> str:
    """One line per row: for each metric the mean and the difference to the baseline."""
    metrics = domain.headline
    widest = {metric: _widest(domain.rows, metric) for metric in metrics}
    head = "".join(
        f"<th scope='colgroup' colspan='2'>{metric_label(metric)}</th>" for metric in metrics
    )
    under = f"<th scope='col'>mean</th><th scope='col'>− {esc(domain.baseline)}</th>" * len(metrics)
    body, marks = "", footnotes(domain)[0]
    for row in domain.rows:
        kind = {domain.baseline: "baseline", featured: "featured"}.get(row.name, "")
        about = "baseline" if row.name == domain.baseline else ""
        about = " · ".join(part for part in (about, esc(row.about)) if part)
        cells = "".join(
            _mean_cell(row, metric)
            + _versus_cell(row, metric, widest[metric], f"− {esc(domain.baseline)}")
            for metric in metrics
        )
        body += (
            f"<tr class='{kind}'><th scope='row'>{esc(row.name)}"
            + (f"<sup>{marks[row.name]}</sup>" if row.name in marks else "")
            + f"<small>{about}</small></th>{cells}</tr>"
        )
    return (
        "<div class='scroll'><table class='results'><thead>"
        f"<tr><th rowspan='2' scope='col'>row</th>{head}</tr><tr>{under}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def contrasts_table(domain: TargetReport) -> str:
    """The paired differences between rows; empty if none were asked for."""
    if not domain.contrasts:
        return ""
    metrics = domain.headline
    widest = {metric: _widest(domain.contrasts, metric) for metric in metrics}
    body = "".join(
        f"<tr><th scope='row'>{esc(one.row)} − {esc(one.against)}"
        f"<small>{esc(one.about)}</small></th>"
        + "".join(_versus_cell(one, m, widest[m], metric_label(m)) for m in metrics)
        + "</tr>"
        for one in domain.contrasts
    )
    head = "".join(f"<th scope='col'>{metric_label(metric)}</th>" for metric in metrics)
    return (
        "<div class='scroll'><table class='results contrasts'><thead><tr>"
        f"<th scope='col'>paired difference</th>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def time_table(timings: dict[str, float]) -> str:
    """Sums by kind of work, and the stages that took longest."""
    times = spent(timings)
    kinds = [[esc(kind), str(count), seconds(value)] for kind, value, count in times.kinds]
    kinds.append(["<b>all</b>", f"<b>{len(timings)}</b>", f"<b>{seconds(times.total)}</b>"])
    longest = [[esc(name), seconds(value)] for name, value in times.longest]
    return (
        f"<div class='pair'>{plain_table(('kind', 'stages', 'time'), kinds)}"
        f"{plain_table(('longest stages', 'time'), longest)}</div>"
    )


def full_table(domain: TargetReport) -> str:
    """Every row and metric with all that is known of it."""
    head = (
        "row",
        "metric",
        "mean",
        "95 % interval",
        "difference",
        "95 % interval",
        "t-test p",
        "Wilcoxon p",
        "Holm p",
        "",
    )
    lines = [_full_line(row, metric) for row in domain.rows for metric in row.metrics]
    return plain_table(head, lines)


def seeds_table(domain: TargetReport) -> str:
    """Mean and spread over seeds; empty if nothing was repeated."""
    lines = [
        [
            esc(row.name),
            metric_label(metric),
            str(one.seeds),
            number(one.mean),
            number(one.sd),
            seeds_range(one),
        ]
        for row in domain.rows
        for metric, one in row.seeds.items()
    ]
    if not lines:
        return ""
    head = ("row", "metric", "seeds", "mean", "sd of a run", "smallest … largest run")
    return plain_table(head, lines)


def protocol_table(domain: TargetReport) -> str:
    """Every field of the protocol."""
    lines = []
    for field, value in domain.protocol.model_dump(mode="json").items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {inner}" for key, inner in value.items())
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        elif isinstance(value, bool) or value is None:
            value = {True: "yes", False: "no", None: "none"}[value]
        lines.append([field.replace("_", " "), esc(str(value))])
    return plain_table((), lines)


def plain_table(head: tuple[str, ...], lines: list[list[str]]) -> str:
    """A table of cells that are HTML already."""
    top = "".join(f"<th scope='col'>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in line) + "</tr>" for line in lines)
    thead = f"<thead><tr>{top}</tr></thead>" if head else ""
    return f"<div class='scroll'><table class='plain'>{thead}<tbody>{body}</tbody></table></div>"


def _mean_cell(row: ResultRow, metric: str) -> str:
    one = row.metrics.get(metric)
    if one is None:
        return f"<td data-label='{metric_label(metric)}'>–</td>"
    return (
        f"<td class='mean' data-label='{metric_label(metric)}'><b>{number(one.mean)}</b>"
        f"<small>{number(one.low)} … {number(one.high)}</small>{_over_seeds(row, metric)}</td>"
    )


def _over_seeds(row: ResultRow, metric: str) -> str:
    one = row.seeds.get(metric)
    return f"<small>{one.seeds} seeds:<br>{seeds_range(one)}</small>" if one else ""


def _versus_cell(row: ResultRow | RowContrast, metric: str, widest: float, label: str) -> str:
    one = row.versus.get(metric)
    if one is None:
        return "<td class='versus none'></td>"
    return (
        f"<td class='versus {one.verdict}' data-label='{label}'>"
        f"<b>{signed(one.difference)}</b> "
        f"<em>{VERDICT_MARK[one.verdict]} {one.verdict}</em>"
        f"{_whisker(one, widest)}"
        f"<small>{signed(one.low)} … {signed(one.high)}, p&nbsp;{escape(p_value(one.p_holm))}"
        "</small></td>"
    )


def _whisker(one: Versus, widest: float) -> str:
    """The interval drawn to scale around a line at zero; the scale is the column's."""
    x = [80 + 76 * value / (widest or 1.0) for value in (one.low, one.difference, one.high)]
    return (
        "<svg viewBox='0 0 160 12' aria-hidden='true'>"
        "<line class='zero' x1='80' x2='80' y1='0' y2='12'/>"
        f"<line class='range' x1='{x[0]:.1f}' x2='{x[2]:.1f}' y1='6' y2='6'/>"
        f"<circle cx='{x[1]:.1f}' cy='6' r='3.4'/></svg>"
    )


def _widest(rows: Sequence[ResultRow | RowContrast], metric: str) -> float:
    differences = [row.versus[metric] for row in rows if metric in row.versus]
    return max((max(abs(one.low), abs(one.high)) for one in differences), default=0.0)


def _full_line(row: ResultRow, metric: str) -> list[str]:
    mean, one = row.metrics[metric], row.versus.get(metric)
    line = [esc(row.name), metric_label(metric), number(mean.mean)]
    line.append(f"{number(mean.low)} … {number(mean.high)}")
    if one is None:
        return [*line, "", "", "", "", "", ""]
    return [
        *line,
        f"<span class='{one.verdict}'>{signed(one.difference)}</span>",
        f"{signed(one.low)} … {signed(one.high)}",
        escape(p_value(one.p_t)),
        escape(p_value(one.p_wilcoxon)),
        escape(p_value(one.p_holm)),
        f"<span class='{one.verdict}'>{one.verdict}</span>",
    ]
