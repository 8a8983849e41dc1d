"""A comparison of parts as one HTML file of heat maps that loads nothing from the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from weft.artifacts.atomic import new_file
from weft.merging.comparing.comparison import Contrast, Matrix, Row
from weft.merging.comparing.hints import hints
from weft.report.figures import MUTED, axis, label, layout
from weft.report.html_tables import esc, plain_table
from weft.report.page import details, figure_html, section, whole_page

Cell = float | None

_WIDE = 26  # columns from which on cells are too narrow for numbers


@dataclass(frozen=True)
class _Scale:
    least: float
    most: float
    colours: tuple[str, ...]  # evenly spaced


_AGREE = _Scale(-1.0, 1.0, ("#b3261e", "#ffffff", "#3848b8"))  # against … for one another
_SHARED = _Scale(0.0, 1.0, ("#ffffff", "#3848b8"))
_CONFLICT = _Scale(0.0, 1.0, ("#3848b8", "#ffffff", "#b3261e"))  # chance, one half, is white


@dataclass(frozen=True)
class _Map:
    """One heat map: a row of cells for each pair or part, a column for each group."""

    title: str
    about: str  # the sentence under it
    rows: tuple[tuple[str, ...], ...]  # a part, or the two of a pair
    columns: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]  # by row
    scale: _Scale
    across: str  # what the columns are
    down: str  # what the rows are
    norms: bool = False

    def shown(self, cell: Cell) -> str:
        return _norm(cell) if self.norms else _number(cell)


def render_contrast(contrast: Contrast, path: Path) -> None:
    """Write the page, plotly.js and style included, in one step."""
    with new_file(Path(path)) as temporary:
        temporary.write_text(contrast_html(contrast), "utf-8")


def contrast_html(contrast: Contrast) -> str:
    """The page as text; equal comparisons give equal text."""
    title = " · ".join(contrast.labels)
    kind = "adapters" if contrast.adapters else "checkpoints"
    head = (
        f"<header><p class='system'>weft · inspect</p><h1>{esc(title)}</h1>"
        f"<p class='summary'>{len(contrast.labels)} {kind} side by side, before a merge</p>"
        "</header>\n"
    )
    main = head + section(_overview(contrast)) + section(_by_layer(contrast))
    main += section(_by_kind(contrast)) + section(_angles(contrast))
    return whole_page(title, main, _LEGEND, plots=True)


_LEGEND = (
    "τ is a part's task vector: its weights minus the base's, or an adapter's ΔW = s·BA. "
    "‖τ‖ is its Frobenius norm. The cosine of two task vectors is 1 where they point the same way, "
    "0 where they have nothing to do with each other, −1 where one undoes the other. "
    "A sign conflict is an element that two parts move in opposite directions."
)


def _overview(c: Contrast) -> str:
    sentences = hints(c)
    notes = "".join(f"<li>{esc(text)}</li>" for text in [*sentences, *c.notes])
    ranks = c.whole.effective_ranks
    head = ("part", "‖τ‖", *(("effective rank (mean over modules)",) if ranks else ()))
    lines = [
        [esc(name), _norm(norm), *([_number(ranks[k])] if ranks else [])]
        for k, (name, norm) in enumerate(zip(c.labels, c.whole.norms, strict=True))
    ]
    out = "<h2>The whole</h2>" + (f"<ul>{notes}</ul>" if notes else "") + plain_table(head, lines)
    if len(c.labels) > 2:
        everything = _Map(
            "Cosine of task vectors, over all weights",
            "Blue parts agree and a merge keeps what they share; white ones have nothing to do "
            "with each other; red ones undo each other.",
            tuple((name,) for name in c.labels),
            c.labels,
            c.whole.cosines,
            _AGREE,
            "part",
            "part",
        )
        out += _drawn(everything, "whole")
    return out


def _by_layer(c: Contrast) -> str:
    return "<h2>By layer</h2>" + _maps(c, c.layers, "layer", "layer of the model")


def _by_kind(c: Contrast) -> str:
    if not c.kinds:
        return ""
    return "<h2>By kind of module</h2>" + _maps(c, c.kinds, "kind", "kind of module in a block")


def _maps(c: Contrast, groups: Sequence[Row], name: str, across: str) -> str:
    columns = tuple(row.name for row in groups)
    most = max((norm for row in groups for norm in row.norms), default=0.0)
    norms = _Map(
        "Norms of task vectors",
        "Where a part's training changed the model most; a row much darker than another will "
        "dominate an unweighted sum.",
        tuple((name,) for name in c.labels),
        columns,
        tuple(tuple(row.norms[k] for row in groups) for k in range(len(c.labels))),
        _Scale(0.0, most or 1.0, _SHARED.colours),
        across,
        "part",
        norms=True,
    )
    maps = [norms] if len(c.labels) < 2 else [*_between(c, groups, across), norms]
    return "".join(_drawn(one, f"{name}-{place}") for place, one in enumerate(maps))


def _between(c: Contrast, groups: Sequence[Row], across: str) -> list[_Map]:
    """What there is for every two parts."""
    rows = _pair_names(c)
    columns = tuple(row.name for row in groups)

    def cells(matrices: Sequence[Matrix]) -> tuple[tuple[Cell, ...], ...]:
        return tuple(tuple(matrix[i][j] for matrix in matrices) for i, j in c.pairs)

    maps = [
        _Map(
            "Cosine of task vectors",
            "1 (blue): two parts changed the layer the same way; 0 (white): in unrelated ways; "
            "below 0 (red): a sum cancels.",
            rows,
            columns,
            cells([row.cosines for row in groups]),
            _AGREE,
            across,
            "pair",
        ),
        _Map(
            "Sign conflicts",
            "Share of the elements, among those that both parts change, that they move in opposite "
            "directions. White is 0.5, what chance gives: the signs are unrelated, which is "
            "harmless. Red: more than that, the parts undo each other; blue: fewer, they agree.",
            rows,
            columns,
            cells([row.conflicts for row in groups]),
            _CONFLICT,
            across,
            "pair",
        ),
    ]
    return maps + _overlaps(c, groups, across)


def _overlaps(c: Contrast, groups: Sequence[Row], across: str) -> list[_Map]:
    """The same for the spaces of adapters; empty for checkpoints."""
    sides = (
        (
            "Output directions shared (column spaces of B)",
            "write to",
            [row.output_overlap for row in groups],
            c.whole.output_chance,
        ),
        (
            "Input directions shared (row spaces of A)",
            "read",
            [row.input_overlap for row in groups],
            c.whole.input_chance,
        ),
    )
    maps = []
    for title, verb, matrices, chance in sides:
        overlaps = [matrix for matrix in matrices if matrix is not None]
        if chance is None or len(overlaps) < len(groups):
            continue
        random = [value for i, j in c.pairs if (value := chance[i][j]) is not None]
        by_chance = f"; unrelated ones would have about {max(random):.2f}" if random else ""
        about = (
            f"1: two adapters {verb} the same directions; 0: separate ones{by_chance}. "
            "Mean squared cosine of the principal angles, mean over modules."
        )
        cells = tuple(tuple(matrix[i][j] for matrix in overlaps) for i, j in c.pairs)
        columns = tuple(row.name for row in groups)
        maps.append(_Map(title, about, _pair_names(c), columns, cells, _SHARED, across, "pair"))
    return maps


def _pair_names(c: Contrast) -> tuple[tuple[str, ...], ...]:
    return tuple((c.labels[i], c.labels[j]) for i, j in c.pairs)


def _drawn(one: _Map, name: str) -> str:
    """The heat map, its sentence, and its numbers as a folded table."""
    height = 110 + 34 * len(one.rows) + 5 * max((len(c) for c in one.columns), default=0)
    lines = [
        [esc(" – ".join(row)), *(one.shown(cell) for cell in cells)]
        for row, cells in zip(one.rows, one.cells, strict=True)
    ]
    table = plain_table((one.down, *(esc(column) for column in one.columns)), lines)
    return (
        figure_html(_heat_map(one), f"map-{name}", one.title, height)
        + f"<p class='protocol'>{esc(one.about)}</p>"
        + details("Numbers", table)
    )


def _heat_map(one: _Map) -> Any:
    shown = [[one.shown(cell) for cell in cells] for cells in one.cells]
    figure = go.Figure(
        go.Heatmap(
            z=[list(cells) for cells in one.cells],
            x=list(range(len(one.columns))),
            y=list(range(len(one.rows))),
            text=shown,
            texttemplate="%{text}" if len(one.columns) < _WIDE else "",
            textfont={"size": 11},
            customdata=[
                [f"{label(' – '.join(row), 80)}, {label(column)}" for column in one.columns]
                for row in one.rows
            ],
            hovertemplate="%{customdata}: %{text}<extra></extra>",
            zmin=one.scale.least,
            zmax=one.scale.most,
            colorscale=list(one.scale.colours),
            colorbar={"thickness": 10, "outlinewidth": 0, "tickfont": {"color": MUTED}},
            xgap=1,
            ygap=1,
        )
    )
    figure.update_layout(
        **{**layout(), "plot_bgcolor": "#f6f7fa"},  # seen where a value is undefined
        xaxis={
            **axis(),
            "showgrid": False,
            "title": {"text": one.across},
            "tickvals": list(range(len(one.columns))),
            "ticktext": [label(column, 28) for column in one.columns],
        },
        yaxis={
            **axis(),
            "showgrid": False,
            "title": {"text": one.down, "standoff": 12},
            "autorange": "reversed",
            "tickvals": list(range(len(one.rows))),
            "ticktext": [" – ".join(label(n, 36 // len(row)) for n in row) for row in one.rows],
        },
    )
    return figure


def _number(value: Cell) -> str:
    if value is None:
        return "–"
    text = f"{value:.2f}"
    return "0" if float(text) == 0 else text.replace("-", "−")


def _norm(value: Cell) -> str:
    return "–" if value is None else f"{value:.4g}"


def _angles(c: Contrast) -> str:
    """Every module's principal angles, folded: degrees, smallest first."""
    if not c.angles:
        return ""
    lines = [
        [
            esc(one.module),
            esc(f"{one.parts[0]} – {one.parts[1]}"),
            " ".join(f"{angle:.0f}" for angle in one.output),
            " ".join(f"{angle:.0f}" for angle in one.input),
        ]
        for one in c.angles
    ]
    head = ("module", "pair", "output spaces (B), degrees", "input spaces (A), degrees")
    about = (
        "<p class='protocol'>0° is a direction that both adapters have, 90° one that the other "
        "lacks.</p>"
    )
    return "<h2>Principal angles</h2>" + about + details("Every module", plain_table(head, lines))
