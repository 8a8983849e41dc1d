"""Plotly figures of a report. Labels are escaped: plotly reads HTML in them."""

from __future__ import annotations

import re
from html import escape
from typing import Any

import plotly.graph_objects as go

from weft.report.format import plain
from weft.report.model import Branch, RunReport

INK, MUTED, LINE, ACCENT, BASELINE = "#1f2733", "#5d6878", "#e3e7ee", "#3848b8", "#8a94a3"
_OTHERS = (
    "#7fb3d5",
    "#e0a458",
    "#6fb98f",
    "#b58db6",
    "#d98880",
    "#5fa8a3",
    "#c9b458",
    "#93a1c9",
    "#a8795a",
    "#c58fd0",
)
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def label(text: str, most: int = 40) -> str:
    """Foreign text for plotly: shortened and escaped."""
    text = plain(text)
    return escape(text if len(text) <= most else text[: most - 1] + "…", quote=False)


def _wrapped(name: str) -> str:
    """A domain's name in lines short enough to stand under its group of bars."""
    parts = re.split(r"(?<=[-_ ])", plain(name))
    lines = [""]
    for part in parts:
        if len(lines[-1]) + len(part) > 13 and lines[-1]:
            lines.append("")
        lines[-1] += part
    return "<br>".join(label(line, 24) for line in lines[:4])


def common_rows(report: RunReport) -> list[str]:
    """The rows that every target has (a source's own adapter, for example, is no row there)."""
    first = report.domains[0].rows if report.domains else []
    return [row.name for row in first if all(domain.row(row.name) for domain in report.domains)]


def metric_bars(report: RunReport, metric: str) -> Any:
    """Bars of one metric: a group per target domain, a bar per row that all of them have."""
    names = common_rows(report)
    colours = _colours(report, names)
    figure = go.Figure()
    for name in names:
        rows = [(place, domain.row(name)) for place, domain in enumerate(report.domains)]
        bars = [(place, row.metrics[metric]) for place, row in rows if row is not None]
        figure.add_bar(
            name=label(name, 28),
            x=[place for place, _ in bars],
            y=[one.mean for _, one in bars],
            customdata=[label(report.domains[place].domain) for place, _ in bars],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [one.high - one.mean for _, one in bars],
                "arrayminus": [one.mean - one.low for _, one in bars],
                "color": INK,
                "thickness": 1,
                "width": 2,
            },
            marker={"color": colours[name], "line": {"width": 0}},
            hovertemplate="%{customdata}<br>%{fullData.name}: %{y:.4f}<extra></extra>",
        )
    figure.update_layout(
        **layout(),
        barmode="group",
        bargap=0.22,
        bargroupgap=0.06,
        yaxis={**axis(), "rangemode": "tozero"},
        xaxis={
            **axis(),
            "showgrid": False,
            "tickangle": 0,
            "tickvals": list(range(len(report.domains))),
            "ticktext": [_wrapped(domain.domain) for domain in report.domains],
        },
    )
    return figure


def curve_panels(report: RunReport) -> dict[str, list[str]]:
    """Domain -> the learning curves of branches trained on it, targets first; one panel with all
    of them where it isn't known what they are of."""
    known = report.branches
    if not set(report.learning_curves) <= set(known):
        return {"": list(report.learning_curves)}
    targets = [domain.domain for domain in report.domains]
    domains = dict.fromkeys([*targets, *(d for one in known.values() for d in one.domains)])
    order = sorted(  # what is shown comes first, the fewer domains the earlier
        report.learning_curves,
        key=lambda n: (not known[n].shown, len(known[n].domains), known[n].kind),
    )
    of = {d: [name for name in order if d in known[name].domains] for d in domains}
    return {domain: names for domain, names in of.items() if names}


def curve_lines(report: RunReport, names: list[str], column: int, domain: str = "") -> Any:
    """A line per branch over steps: column 1 is the training loss, 2 the validation metric.

    All points are drawn as they were logged. Lines of one kind share an entry of the legend;
    a click there shows those that are hidden at first.
    """
    figure = go.Figure()
    others = dict.fromkeys(d for one in report.branches.values() for d in one.domains)
    colour_of = dict(zip(others, _OTHERS * len(others), strict=False))
    in_legend: set[str] = set()
    for place, name in enumerate(names):
        points = report.learning_curves[name]
        pairs = [(point[0], point[column]) for point in points if point[column] is not None]
        if not pairs:
            continue
        branch = report.branches.get(name) if domain else None
        if branch is None:
            kind, shown, colour = label(name), place < len(_OTHERS), _OTHERS[place % len(_OTHERS)]
        else:
            rest = [one for one in branch.domains if one != domain]
            kind = label(branch.kind + (f" + {rest[0]}" if len(rest) == 1 else ""), 32)
            shown = branch.shown
            colour = colour_of[rest[0]] if len(rest) == 1 else ACCENT if shown else BASELINE
        figure.add_scatter(
            x=[step for step, _ in pairs],
            y=[value for _, value in pairs],
            name=kind,
            legendgroup=kind,
            showlegend=kind not in in_legend,
            visible=True if shown else "legendonly",
            mode="lines" if len(pairs) > 5 else "lines+markers",
            line={"color": colour, "width": 2 if shown else 1.4, **_dash(branch)},
            marker={"size": 4},
            hovertemplate=f"{label(name)}<br>step %{{x}}: %{{y:.4f}}<extra></extra>",
        )
        in_legend.add(kind)
    figure.update_layout(**layout(), xaxis=axis(), yaxis=axis())
    return figure


def _dash(branch: Branch | None) -> dict[str, str]:
    """Hidden kinds share one colour and differ in their dash."""
    if branch is None or branch.shown:
        return {}
    dashes = ("dash", "dot", "dashdot", "longdash")
    return {"dash": dashes[sum(map(ord, branch.kind)) % len(dashes)]}


def _colours(report: RunReport, names: list[str]) -> dict[str, str]:
    """The row that the run is about stands out, baselines are grey."""
    baselines = {domain.baseline for domain in report.domains}
    others = (name for name in names if name not in baselines and name != report.featured)
    colours = {name: _OTHERS[place % len(_OTHERS)] for place, name in enumerate(others)}
    colours |= dict.fromkeys(baselines, BASELINE)
    return colours | {report.featured: ACCENT}


def axis() -> dict[str, Any]:
    """What every axis of a figure has."""
    return {
        "gridcolor": LINE,
        "zeroline": False,
        "linecolor": LINE,
        "fixedrange": True,
        "automargin": True,
    }


def layout() -> dict[str, Any]:
    """What every figure has: fonts, margins, the legend."""
    return {
        "template": "none",
        "font": {"family": _FONT, "size": 12, "color": INK},
        "margin": {"l": 8, "r": 8, "t": 8, "b": 32},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "legend": {
            "orientation": "h",
            "y": 1.03,
            "yanchor": "bottom",
            "x": 0,
            "itemwidth": 30,
            "font": {"size": 11},
        },
        "hoverlabel": {"font": {"family": _FONT}},
    }
