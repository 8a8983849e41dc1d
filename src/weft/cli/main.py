"""The terminal's front door: `weft`. Commands are a few lines over Python calls."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from weft import __version__
from weft.cli import backbone, compare, data, fold, inspect, merge, models, recipes, report, run
from weft.cli.merge_arguments import MergeCommand
from weft.cli.out import echo, note, say
from weft.errors import WeftError, WeftNotice
from weft.safe_text import shown


class SafeGroup(TyperGroup):
    """The commands; what a person typed is shown safely in an error of use."""

    def make_context(self, *arguments: Any, **extra: Any) -> Any:
        with _shown_safely():
            return super().make_context(*arguments, **extra)

    def invoke(self, ctx: Any) -> Any:
        with _shown_safely():
            return super().invoke(ctx)


@contextmanager
def _shown_safely() -> Iterator[None]:
    try:
        yield
    except TyperException as error:  # every error of use
        if hasattr(error, "message"):
            error.message = shown(str(error.message))
        raise


app = typer.Typer(
    name="weft",
    cls=SafeGroup,
    help="Turn the logs of several domains into recommenders that help each other.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
app.add_typer(data.app, name="data")
app.add_typer(backbone.app, name="backbone")
app.command("demo")(run.demo_command)
app.command("run")(run.run_command)
app.command("recipes")(recipes.recipes_command)
app.command("recommend")(models.recommend_command)
app.command("evaluate")(models.evaluate_command)
app.command("merge", cls=MergeCommand)(merge.merge_command)
app.command("methods")(merge.methods_command)
app.command("fold")(fold.fold_command)
app.command("inspect")(inspect.inspect_weights_command)
app.command("compare")(compare.compare_command)
app.command("report")(report.report_command)


def _version(value: bool) -> None:
    if value:
        echo(f"weft {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


@contextmanager
def _notices_on_stderr() -> Iterator[None]:
    """Each notice of a library call becomes one line on stderr."""
    printed: set[str] = set()
    usual = warnings.showwarning

    def show(message: Any, category: Any, *where: Any, **more: Any) -> None:
        if not issubclass(category, WeftNotice):
            usual(message, category, *where, **more)
        elif str(message) not in printed:
            printed.add(str(message))
            note(message)

    with warnings.catch_warnings():
        warnings.simplefilter("always", WeftNotice)
        warnings.showwarning = show
        yield


def main() -> None:
    """Run the command line; an error of use is one sentence and exit code 2."""
    try:
        with _notices_on_stderr():
            app()
    except WeftError as error:
        say(f"weft: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        say("weft: stopped; run the same command again to go on from here")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        from weft.artifacts.atomic import reason

        name = error.filename2 or error.filename
        where = "" if name is None else f"{name}: "
        say(f"weft: {where}{reason(error)}")
        sys.exit(2)


if __name__ == "__main__":
    main()
