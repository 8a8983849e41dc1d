"""A report as one HTML file that loads nothing from the network."""

from __future__ import annotations

from pathlib import Path

from weft.artifacts.atomic import new_file
from weft.report.figures import common_rows, curve_lines, curve_panels, metric_bars
from weft.report.format import (
    data_line,
    facts_line,
    footnotes,
    metric_label,
    protocol_line,
    seconds,
    seeds_verdict,
    serving_head,
    versions_line,
)
from weft.report.html_tables import (
    contrasts_table,
    esc,
    full_table,
    overview,
    plain_table,
    protocol_table,
    results_table,
    seeds_table,
    time_table,
)
from weft.report.model import ReportTable, RunReport, TargetReport, UserCase
from weft.report.page import details, figure_html, section, whole_page

_TIES = {
    "expected metric": "A target that ties with other items gets the mean of the metric over all "
    "orders of the tie.",
    "expected rank": "A target that ties with other items gets the metric at the mean rank of the "
    "tie.",
}
_LEGEND = (
    "Every mean is over users. A difference compares each user's value with the same user's value "
    "under the baseline, or under the row that is named. Lines and ranges are 95 % intervals, each "
    "for one value alone. p is the p-value of a paired t-test with Holm's correction over all rows "
    "and metrics of the table shown; for the further metrics under 'Every metric and test', over "
    "all rows and all metrics. A range over seeds goes from the lowest run to the highest. A gain "
    "or a loss is a difference with p below .05, and a loss is negative transfer. Unclear means "
    "that so few users can't show whether there is a difference."
)


def render_html(report: RunReport, path: Path | str) -> None:
    """Write the page, plotly.js and style included, in one step."""
    with new_file(Path(path)) as temporary:
        temporary.write_text(html_page(report), "utf-8")


def html_page(report: RunReport) -> str:
    """The page as text; equal reports give equal text."""
    figures = _figures(report)
    main = "".join(
        (
            _header(report),
            section(_serving(report)),
            section(overview(report)),
            *(section(_domain(domain, report)) for domain in report.domains),
            *(section(_extra(one)) for one in report.tables),
            section(figures),
            section(_users(report)),
            section(_notes(report)),
            section(_timings(report)),
            section(_versions(report)),
        )
    )
    return whole_page(report.title, main, _legend(report), plots=bool(figures))


def _legend(report: RunReport) -> str:
    rules = dict.fromkeys(domain.protocol.ties for domain in report.domains)
    return " ".join([_LEGEND, *(_TIES[rule] for rule in rules)])


def _header(report: RunReport) -> str:
    summary = f"<p class='summary'>{esc(report.summary)}</p>" if report.summary else ""
    domains = " · ".join(esc(domain.domain) for domain in report.domains)
    return (
        f"<header><p class='system'>weft · {esc(report.system)}</p><h1>{esc(report.title)}</h1>"
        f"{summary}<p class='domains'>{domains}</p></header>\n"
    )


def _domain(domain: TargetReport, report: RunReport) -> str:
    seeds, verdict = seeds_table(domain), seeds_verdict(domain, report.featured)
    return (
        f"<h2>{esc(domain.domain)}</h2><p class='protocol'>{esc(protocol_line(domain.protocol))}</p>"
        + results_table(domain, report.featured)
        + _footnotes(domain)
        + contrasts_table(domain)
        + (f"<p class='verdict'>{esc(verdict)}</p>" if verdict else "")
        + (f"<p class='protocol'>{esc(facts_line(domain))}</p>" if domain.facts else "")
        + details("Every metric and test", full_table(domain))
        + (details("Spread over seeds", seeds) if seeds else "")
        + details("Protocol", protocol_table(domain))
    )


def _serving(report: RunReport) -> str:
    chosen = [domain.serving for domain in report.domains if domain.serving is not None]
    lines = "".join(
        f"<li><b>{esc(one.target)}: {esc(serving_head(one))}.</b> {esc(one.reason)}</li>"
        for one in chosen
    )
    return f"<h2>What to serve</h2><ul class='serving'>{lines}</ul>" if lines else ""


def _footnotes(domain: TargetReport) -> str:
    lines = [f"{mark} {text}" for mark, text in footnotes(domain)[1]] + domain.cautions
    return "".join(f"<p class='warning'>{esc(line)}</p>" for line in lines)


def _versions(report: RunReport) -> str:
    line = versions_line(report)
    if not line:
        return ""
    return f"<h2>Made with</h2><p class='protocol'>{esc(line)}. {esc(data_line(report))}</p>"


def _extra(one: ReportTable) -> str:
    about = f"<p class='protocol'>{esc(one.about)}</p>" if one.about else ""
    rows = [[esc(cell) for cell in row] for row in one.rows]
    table = plain_table(tuple(esc(name) for name in one.header), rows)
    return f"<h2>{esc(one.title)}</h2>{about}{table}"


def _figures(report: RunReport) -> str:
    out = ""
    if any(len(domain.rows) > len(common_rows(report)) for domain in report.domains):
        out += "<p class='protocol'>The bars show the rows that every target has.</p>"
    for place, metric in enumerate(report.headline_metrics()):
        caption = f"{metric_label(metric)} by target domain, with 95 % intervals"
        out += figure_html(metric_bars(report, metric), f"bars-{place}", caption)
    out += _curves(report)
    return f"<h2>Figures</h2>{out}" if "<figure>" in out else ""


def _curves(report: RunReport) -> str:
    """Every logged point, with one figure for each domain; a click shows the hidden lines."""
    out = ""
    captions = ("Training loss by step", f"Validation by step: {report.validation_metric}")
    for column, caption in enumerate(captions, 1):
        if all(point[column] is None for line in report.learning_curves.values() for point in line):
            continue
        drawn = "".join(
            figure_html(
                curve_lines(report, names, column, domain), f"curves-{column}-{place}", domain, 320
            )
            for place, (domain, names) in enumerate(curve_panels(report).items())
        )
        out += f"<h3>{esc(caption)}</h3><div class='pair'>{drawn}</div>"
    hidden = any(not branch.shown for branch in report.branches.values())
    hint = "<p class='protocol'>Click a name in a legend to show or hide its lines.</p>"
    return out + (hint if out and hidden else "")


def _users(report: RunReport) -> str:
    if not report.users:
        return ""
    count = {1: "One user", 2: "Two users", 3: "Three users"}.get(len(report.users), "Some users")
    return f"<h2>{count}: what they had, what each row suggests</h2>" + "".join(
        map(_user, report.users)
    )


def _user(case: UserCase) -> str:
    history = "".join(f"<li>{esc(title)}</li>" for title in case.history)
    suggested = "".join(
        f"<div><h4>{esc(name)}</h4><ol>{''.join(_title(t, case.target) for t in titles)}</ol></div>"
        for name, titles in case.suggestions.items()
    )
    return (
        f"<article class='user'><h3>{esc(case.user)} <small>{esc(case.domain)}</small></h3>"
        f"<div class='had'><div><h4>history, oldest first</h4><ol>{history}</ol></div>"
        f"<div><h4>next, to be predicted</h4><p class='target'>{esc(case.target)}</p></div></div>"
        f"<div class='suggestions'>{suggested}</div></article>"
    )


def _title(title: str, target: str) -> str:
    if title == target:
        return f"<li class='found'>{esc(title)} <em>✓ the target</em></li>"
    return f"<li>{esc(title)}</li>"


def _notes(report: RunReport) -> str:
    if not report.notes:
        return ""
    return (
        "<h2>Notes</h2><ul>" + "".join(f"<li>{esc(note)}</li>" for note in report.notes) + "</ul>"
    )


def _timings(report: RunReport) -> str:
    if not report.timings:
        return ""
    lines = [[esc(name), seconds(value)] for name, value in report.timings.items()]
    every = details("Every stage", plain_table(("stage", "time"), lines))
    return (
        "<h2>Time</h2><p class='protocol'>Summed over worker processes that ran in parallel.</p>"
        f"{time_table(report.timings)}{every}"
    )
