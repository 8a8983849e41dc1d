"""The frame of an HTML page and the blocks that pages are built of."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from weft.report.html_tables import esc

# No request can leave the page, whatever a title holds.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)
# Plotly draws for the window's width; paper has another.
PRINT = (
    "addEventListener('beforeprint',function(){document.querySelectorAll('.js-plotly-plot')"
    ".forEach(function(f){Plotly.relayout(f,{width:680})})});"
    "addEventListener('afterprint',function(){document.querySelectorAll('.js-plotly-plot')"
    ".forEach(function(f){Plotly.relayout(f,{width:null,autosize:true})})});"
)


def whole_page(title: str, main: str, footer: str, *, plots: bool) -> str:
    """A page that loads nothing from the network; with `plots`, plotly.js is in it."""
    script = ""
    if plots:
        from plotly.offline import get_plotlyjs

        script = f"<script>{get_plotlyjs()}</script><script>{PRINT}</script>"
    style = files("weft.report").joinpath("page.css").read_text("utf-8")
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{esc(title)}</title><style>{style}</style>{script}</head>"
        f"<body><main>{main}</main><footer>{footer}</footer></body></html>\n"
    )


def section(content: str) -> str:
    """The content as a section; none where it is empty."""
    return f"<section>{content}</section>\n" if content else ""


def details(title: str, content: str) -> str:
    """Content that a click on its title unfolds."""
    return f"<details><summary>{title}</summary>{content}</details>"


def figure_html(figure: Any, name: str, caption: str, height: int = 360) -> str:
    """A plotly figure with its caption; `name` is its id in the page."""
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
