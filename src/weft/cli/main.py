"""The terminal's front door: `weft`. Commands are a few lines over Python calls."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from weft import __version__
from weft.cli import backbone, compare, data, fold, inspect, merge, models, report, run
from weft.cli.merge_arguments import MergeCommand
from weft.errors import WeftError

app = typer.Typer(
    name="weft",
    help="Turn the logs of several domains into recommenders that help each other.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
app.add_typer(data.app, name="data")
app.add_typer(backbone.app, name="backbone")
app.command()(run.demo)
app.command()(run.run)
app.command()(models.recommend)
app.command()(models.evaluate)
app.command(cls=MergeCommand)(merge.merge)
app.command()(merge.methods)
app.command()(fold.fold)
app.command()(inspect.inspect)
app.command()(compare.compare)
app.command()(report.report)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"weft {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; an error of use is one sentence and exit code 2."""
    try:
        app()
    except WeftError as error:
        sys.stderr.write(f"weft: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("weft: stopped; the same command goes on from here\n")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        from weft.artifacts.atomic import reason

        name = error.filename2 or error.filename
        where = "" if name is None else f"{name}: "
        sys.stderr.write(f"weft: {where}{' '.join(reason(error).split())}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
