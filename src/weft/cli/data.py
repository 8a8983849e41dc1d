"""`weft data`: bring logs in, look at them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from weft.cli.data_ingest import ingest_command
from weft.cli.data_tables import Json, print_domain, print_json
from weft.cli.grouped_help import GroupedCommand
from weft.cli.out import console

app = typer.Typer(
    help="Bring logs in as domain folders, and look at them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.command("ingest", cls=GroupedCommand, no_args_is_help=True)(ingest_command)


@app.command("inspect", no_args_is_help=True)
def inspect_command(
    domain: Annotated[list[Path], typer.Argument(help="Domain folders.")],
    split: Annotated[
        str | None,
        typer.Option(
            help="Also count what a split makes of them: leave_one_out, by_user:3,1,1, or "
            "global_time:FROM,TEST with two dates or two shares, or a block as in recipes."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show what is in a domain: counts, histograms, ties of time, missing and repeated titles."""
    from weft.data.folder import load_domain
    from weft.data.inspect import inspect_domain

    reports = [inspect_domain(load_domain(path), split) for path in domain]
    if json:
        print_json(reports[0] if len(reports) == 1 else reports)
    else:
        for report in reports:
            print_domain(report)


@app.command()
def formats(json: Json = False) -> None:
    """List the formats that 'weft data ingest' reads."""
    from rich.table import Table

    from weft.data.readers import READERS

    if json:
        print_json([{"name": r.name, "summary": r.summary} for r in READERS])
        return
    table = Table("--format", "reads", "recognised by the name", box=None)
    for reader in READERS:
        table.add_row(reader.name, reader.summary, ", ".join(reader.patterns) or "no")
    console().print(table)
