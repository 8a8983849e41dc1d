"""A report as Markdown, for a model card or a pull request."""

from __future__ import annotations

import re

from weft.report.format import (
    metric_label,
    number,
    p_value,
    plain,
    protocol_line,
    seconds,
    signed,
)
from weft.report.model import DomainReport, Row, RunReport, UserCase


def render_markdown(report: RunReport) -> str:
    """The whole report, with tables of the headline metrics."""
    parts = [f"# {text(report.title)}", f"System: {text(report.system)}"]
    if report.summary:
        parts.append(text(report.summary))
    parts += [_domain(domain) for domain in report.domains]
    if report.users:
        parts += ["## What is suggested", *(_user(case) for case in report.users)]
    if report.notes:
        parts += ["## Notes", "\n".join(f"- {text(note)}" for note in report.notes)]
    if report.timings:
        rows = [[text(name), seconds(value)] for name, value in report.timings.items()]
        parts += ["## Time", _table(["stage", "time"], rows)]
    return "\n\n".join(parts) + "\n"


def text(value: str) -> str:
    """Foreign text with everything that Markdown or HTML would read escaped."""
    return re.sub(r"([\\`*_{}\[\]<>#|~!&$@])", r"\\\1", plain(value))


def _domain(domain: DomainReport) -> str:
    metrics = domain.headline
    header = [""]
    for metric in metrics:
        header += [metric_label(metric), f"− {text(domain.baseline)}"]
    rows = [
        [text(row.name)] + [cell for metric in metrics for cell in _cells(row, metric)]
        for row in domain.rows
    ]
    return (
        f"## {text(domain.domain)}\n\n{text(protocol_line(domain.protocol))}.\n\n"
        + _table(header, rows)
        + "\n\nIn brackets: 95 % intervals. p: paired t-test, Holm-corrected over this table."
    )


def _cells(row: Row, metric: str) -> list[str]:
    mean = row.metrics[metric]
    value = f"{number(mean.mean)} [{number(mean.low)}, {number(mean.high)}]"
    one = row.versus.get(metric)
    if one is None:
        return [value, ""]
    strong = "" if one.verdict == "unclear" else "**"
    versus = (
        f"{strong}{signed(one.difference)}{strong} [{signed(one.low)}, {signed(one.high)}], "
        f"p {p_value(one.p_holm).replace('<', '&lt;')}, {strong}{one.verdict}{strong}"
    )
    return [value, versus]


def _user(case: UserCase) -> str:
    lines = [
        f"### User {text(case.user)}, {text(case.domain)}\n",
        f"- had: {'; '.join(text(title) for title in case.history)}",
        f"- took: **{text(case.target)}**",
    ]
    for name, titles in case.suggestions.items():
        shown = [f"**{text(t)}**" if t == case.target else text(t) for t in titles]
        lines.append(f"- {text(name)}: {'; '.join(shown)}")
    return "\n".join(lines)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
