"""Everything that commands print goes through here, so that foreign text can't act."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import typer

from weft.safe_text import json_text, line, shown

if TYPE_CHECKING:
    from weft.report.console import SafeConsole


def echo(text: object = "") -> None:
    """Print lines to stdout."""
    typer.echo(shown(str(text)))


def echo_json(value: Any) -> None:
    """Print JSON to stdout."""
    typer.echo(json_text(value))


def note(text: object) -> None:
    """Tell a person one line on stderr."""
    say(f"note: {text}")


def say(text: object) -> None:
    """One line on stderr, at once."""
    sys.stderr.write(line(str(text)) + "\n")
    sys.stderr.flush()


def console(*, stderr: bool = False) -> SafeConsole:
    """For tables, and on stderr for bars."""
    from weft.report.console import SafeConsole

    return SafeConsole(stderr=stderr)
