"""Tables, figures and pages out of results."""

from typing import TYPE_CHECKING

from weft.lazy_names import lazy_names

if TYPE_CHECKING:
    from weft.report.build import target_report
    from weft.report.html import html_page, render_html
    from weft.report.markdown import render_markdown
    from weft.report.model import RunReport, TargetReport
    from weft.report.serving import RowInfo
    from weft.report.terminal import render_terminal
else:
    __getattr__ = lazy_names(
        __name__,
        {
            "build": ["target_report"],
            "html": ["html_page", "render_html"],
            "markdown": ["render_markdown"],
            "model": ["RunReport", "TargetReport"],
            "serving": ["RowInfo"],
            "terminal": ["render_terminal"],
        },
    )

__all__ = [
    "RowInfo",
    "RunReport",
    "TargetReport",
    "html_page",
    "render_html",
    "render_markdown",
    "render_terminal",
    "target_report",
]
