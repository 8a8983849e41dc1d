"""`weft report`: a run's report in the terminal, as HTML or as Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from weft.cli.out import echo
from weft.safe_text import line


def report_command(
    run: Annotated[Path, typer.Argument(help="A run's folder or its report.json.")],
    html: Annotated[Path | None, typer.Option(help="Write one self-contained HTML file.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write Markdown.")] = None,
) -> None:
    """Show a run's report, or write it as HTML or Markdown."""
    from weft.artifacts.atomic import check_file, new_file
    from weft.report.model import RunReport

    for path in (html, markdown):
        if path is not None:
            check_file(path)
    loaded = RunReport.load(run)
    if html is not None:
        from weft.report.html import render_html

        render_html(loaded, html)
        echo(line(f"wrote {html}"))
    if markdown is not None:
        from weft.report.markdown import render_markdown

        with new_file(markdown) as temporary:
            temporary.write_text(render_markdown(loaded), "utf-8")
        echo(line(f"wrote {markdown}"))
    if html is None and markdown is None:
        from weft.report.terminal import render_terminal

        render_terminal(loaded)
