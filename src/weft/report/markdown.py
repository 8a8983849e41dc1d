"""A report as Markdown, for a model card or a pull request."""

from __future__ import annotations

from weft.report.format import (
    contrast_label,
    data_line,
    facts_line,
    footnotes,
    metric_label,
    number,
    p_value,
    protocol_line,
    seconds,
    seeds_range,
    seeds_verdict,
    serving_head,
    signed,
    spent,
    versions_line,
)
from weft.report.model import (
    ReportTable,
    ResultRow,
    RowContrast,
    RunReport,
    TargetReport,
    UserCase,
    Versus,
)
from weft.safe_text import markdown


def render_markdown(report: RunReport) -> str:
    """The whole report, with tables of the headline metrics."""
    parts = [f"# {text(report.title)}", f"System: {text(report.system)}"]
    if report.summary:
        parts.append(text(report.summary))
    parts += _serving(report)
    parts += [_domain(domain, report.featured) for domain in report.domains]
    parts += [_extra(one) for one in report.tables]
    if report.users:
        parts += ["## What is suggested", *(_user(case) for case in report.users)]
    if report.notes:
        parts += ["## Notes", "\n".join(f"- {text(note)}" for note in report.notes)]
    if line := versions_line(report):
        parts += ["## Made with", f"{text(line)}. {text(data_line(report))}".rstrip()]
    if report.timings:
        parts += ["## Time", _time(report.timings)]
    return "\n\n".join(parts) + "\n"


def _serving(report: RunReport) -> list[str]:
    chosen = [domain.serving for domain in report.domains if domain.serving is not None]
    lines = [
        f"- **{text(one.target)}: {text(serving_head(one))}.** {text(one.reason)}" for one in chosen
    ]
    return ["## What to serve", "\n".join(lines)] if lines else []


def text(value: str) -> str:
    """Foreign text with everything that Markdown or HTML would read escaped."""
    return markdown(value)


def _domain(domain: TargetReport, featured: str) -> str:
    metrics = domain.headline
    header = [""]
    for metric in metrics:
        header += [metric_label(metric), f"− {text(domain.baseline)}"]
    marks, below = footnotes(domain)
    rows = [
        [text(f"{row.name} {marks.get(row.name, '')}")]
        + [cell for metric in metrics for cell in _cells(row, metric)]
        for row in domain.rows
    ]
    parts = [
        f"## {text(domain.domain)}",
        f"{text(protocol_line(domain.protocol))}.",
        _table(header, rows),
        *(text(f"{mark} {sentence}") for mark, sentence in below),
        *(text(sentence) for sentence in domain.cautions),
        "In brackets: 95 % intervals. p: a paired t-test, with Holm's correction over the table.",
    ]
    if domain.contrasts:
        header = ["paired difference", *(metric_label(metric) for metric in metrics)]
        parts.append(_table(header, [_contrast(one, metrics) for one in domain.contrasts]))
    if sentence := seeds_verdict(domain, featured):
        parts.append(text(sentence))
    if sentence := facts_line(domain):
        parts.append(text(sentence))
    return "\n\n".join(parts)


def _extra(one: ReportTable) -> str:
    rows = [[text(cell) for cell in row] for row in one.rows]
    parts = [f"## {text(one.title)}", _table([text(name) for name in one.header], rows)]
    return "\n\n".join([*parts, text(one.about)] if one.about else parts)


def _contrast(one: RowContrast, metrics: tuple[str, ...]) -> list[str]:
    differences = [one.versus.get(metric) for metric in metrics]
    return [
        text(contrast_label(one)),
        *(_versus(versus) if versus else "" for versus in differences),
    ]


def _time(timings: dict[str, float]) -> str:
    times = spent(timings)
    rows = [[text(kind), str(count), seconds(value)] for kind, value, count in times.kinds]
    rows.append(["all", str(len(timings)), seconds(times.total)])
    longest = ", ".join(f"{text(name)} ({seconds(value)})" for name, value in times.longest)
    return _table(["kind", "stages", "time"], rows) + f"\n\nLongest: {longest}."


def _cells(row: ResultRow, metric: str) -> list[str]:
    mean = row.metrics[metric]
    value = f"{number(mean.mean)} [{number(mean.low)}, {number(mean.high)}]"
    if (runs := row.seeds.get(metric)) is not None:
        value += f", {runs.seeds} seeds {seeds_range(runs)}"
    one = row.versus.get(metric)
    return [value, "" if one is None else _versus(one)]


def _versus(one: Versus) -> str:
    strong = "" if one.verdict == "unclear" else "**"
    return (
        f"{strong}{signed(one.difference)}{strong} [{signed(one.low)}, {signed(one.high)}], "
        f"p {p_value(one.p_holm).replace('<', '&lt;')}, {strong}{one.verdict}{strong}"
    )


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
