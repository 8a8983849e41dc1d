"""A report as one HTML file that asks the network for nothing."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from weft.artifacts.atomic import new_file
from weft.report.figures import common_rows, curve_lines, curve_panels, metric_bars
from weft.report.format import (
    data_line,
    facts_line,
    footnotes,
    made_with,
    metric_label,
    protocol_line,
    seconds,
    seeds_verdict,
    serving_head,
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
from weft.report.model import DomainReport, RunReport, Table, UserCase

# No request can leave the page, whatever a title holds.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)
# Plotly draws for the window's width; paper has another.
_PRINT = (
    "addEventListener('beforeprint',function(){document.querySelectorAll('.js-plotly-plot')"
    ".forEach(function(f){Plotly.relayout(f,{width:680})})});"
    "addEventListener('afterprint',function(){document.querySelectorAll('.js-plotly-plot')"
    ".forEach(function(f){Plotly.relayout(f,{width:null,autosize:true})})});"
)
_TIES = {
    "expected metric": "A target that ties with other items gets the mean of the metric over all "
    "orders of the tie.",
    "expected rank": "A target that ties with other items gets the metric at the mean rank of the "
    "tie.",
}
_HOW_TO_READ = (
    "A mean is over users. A difference pairs each user's value with the same user's value "
    "under the baseline (or under the row that is named). Lines and ranges are 95 % intervals, each on its own. p is that of a paired t-test, "
    "Holm-corrected over all rows and metrics of the table shown; for the further metrics that "
    "are folded away, over all rows and all metrics. A range over seeds is from the lowest to the "
    "highest run. Gain and loss are differences with p below "
    ".05, and a loss is negative transfer; unclear means that the users measured can't tell."
)


def render_html(report: RunReport, path: Path) -> None:
    """Write the page, plotly.js and style included, in one step."""
    with new_file(Path(path)) as temporary:
        temporary.write_text(html_page(report), "utf-8")


def html_page(report: RunReport) -> str:
    """The page as text; equal reports give equal text."""
    figures = _figures(report)
    script = ""
    if figures:
        from plotly.offline import get_plotlyjs

        script = f"<script>{get_plotlyjs()}</script><script>{_PRINT}</script>"
    style = files("weft.report").joinpath("page.css").read_text("utf-8")
    main = "".join(
        (
            _header(report),
            _section(_serving(report)),
            _section(overview(report)),
            *(_section(_domain(domain, report)) for domain in report.domains),
            *(_section(_extra(one)) for one in report.tables),
            _section(figures),
            _section(_users(report)),
            _section(_notes(report)),
            _section(_timings(report)),
            _section(_made_with(report)),
        )
    )
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{esc(report.title)}</title><style>{style}</style>{script}</head>"
        f"<body><main>{main}</main><footer>{_how_to_read(report)}</footer></body></html>\n"
    )


def _how_to_read(report: RunReport) -> str:
    rules = dict.fromkeys(domain.protocol.ties for domain in report.domains)
    return " ".join([_HOW_TO_READ, *(_TIES[rule] for rule in rules)])


def _section(content: str) -> str:
    return f"<section>{content}</section>\n" if content else ""


def _header(report: RunReport) -> str:
    summary = f"<p class='summary'>{esc(report.summary)}</p>" if report.summary else ""
    domains = " · ".join(esc(domain.domain) for domain in report.domains)
    return (
        f"<header><p class='system'>weft · {esc(report.system)}</p><h1>{esc(report.title)}</h1>"
        f"{summary}<p class='domains'>{domains}</p></header>\n"
    )


def _domain(domain: DomainReport, report: RunReport) -> str:
    seeds, verdict = seeds_table(domain), seeds_verdict(domain, report.featured)
    return (
        f"<h2>{esc(domain.domain)}</h2><p class='protocol'>{esc(protocol_line(domain.protocol))}</p>"
        + results_table(domain, report.featured)
        + _footnotes(domain)
        + contrasts_table(domain)
        + (f"<p class='verdict'>{esc(verdict)}</p>" if verdict else "")
        + (f"<p class='protocol'>{esc(facts_line(domain))}</p>" if domain.facts else "")
        + _fold("Every metric and test", full_table(domain))
        + (_fold("Spread over seeds", seeds) if seeds else "")
        + _fold("Protocol", protocol_table(domain))
    )


def _serving(report: RunReport) -> str:
    chosen = [domain.serving for domain in report.domains if domain.serving is not None]
    lines = "".join(
        f"<li><b>{esc(one.target)}: {esc(serving_head(one))}.</b> {esc(one.reason)}</li>"
        for one in chosen
    )
    return f"<h2>What to serve</h2><ul class='serving'>{lines}</ul>" if lines else ""


def _footnotes(domain: DomainReport) -> str:
    lines = [f"{mark} {text}" for mark, text in footnotes(domain)[1]] + domain.cautions
    return "".join(f"<p class='warning'>{esc(line)}</p>" for line in lines)


def _made_with(report: RunReport) -> str:
    line = made_with(report)
    if not line:
        return ""
    return f"<h2>Made with</h2><p class='protocol'>{esc(line)}. {esc(data_line(report))}</p>"


def _extra(one: Table) -> str:
    about = f"<p class='protocol'>{esc(one.about)}</p>" if one.about else ""
    rows = [[esc(cell) for cell in row] for row in one.rows]
    table = plain_table(tuple(esc(name) for name in one.header), rows)
    return f"<h2>{esc(one.title)}</h2>{about}{table}"


def _fold(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>{content}</details>"


def _figures(report: RunReport) -> str:
    out = ""
    if any(len(domain.rows) > len(common_rows(report)) for domain in report.domains):
        out += "<p class='protocol'>Bars are of the rows that every target has.</p>"
    for place, metric in enumerate(report.headline_metrics()):
        caption = f"{metric_label(metric)} by target domain, with 95 % intervals"
        out += _figure(metric_bars(report, metric), f"bars-{place}", caption)
    out += _curves(report)
    return f"<h2>Figures</h2>{out}" if "<figure>" in out else ""


def _curves(report: RunReport) -> str:
    """Every point as it was logged, a figure a domain; what is hidden is one click away."""
    out = ""
    said = ("Training loss by step", f"Validation by step: {report.validation_metric}")
    for column, caption in enumerate(said, 1):
        if all(point[column] is None for line in report.learning_curves.values() for point in line):
            continue
        drawn = "".join(
            _figure(
                curve_lines(report, names, column, domain), f"curves-{column}-{place}", domain, 320
            )
            for place, (domain, names) in enumerate(curve_panels(report).items())
        )
        out += f"<h3>{esc(caption)}</h3><div class='pair'>{drawn}</div>"
    hidden = any(not branch.shown for branch in report.branches.values())
    hint = "<p class='protocol'>Click a name in a legend to show or hide its lines.</p>"
    return out + (hint if out and hidden else "")


def _figure(figure: Any, name: str, caption: str, height: int = 360) -> str:
    import plotly.io

    drawn: str = plotly.io.to_html(
        figure,
        full_html=False,
        include_plotlyjs=False,
        div_id=name,
        default_height=f"{height}px",
        config={"displayModeBar": False, "responsive": True},
    )
    return f"<figure><figcaption>{esc(caption)}</figcaption>{drawn}</figure>"


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
    every = _fold("Every stage", plain_table(("stage", "time"), lines))
    return (
        "<h2>Time</h2><p class='protocol'>Summed over worker processes, which work side by side.</p>"
        f"{time_table(report.timings)}{every}"
    )
