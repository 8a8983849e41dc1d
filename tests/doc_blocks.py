"""The code blocks of a document, and how a reader would run them."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.main import get_command

from weft.cli.main import app, main

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class DocBlock:
    """One fenced block: `language` as written behind the fence, `line` the number of its first."""

    document: Path
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.document.name}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """The lines that a person types, without the prompt."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def blocks(document: Path, *languages: str) -> list[DocBlock]:
    """The blocks of some languages, in the order of the document."""
    text = document.read_text("utf-8")
    return [
        DocBlock(document, text.count("\n", 0, match.start(2)) + 1, match[1], match[2])
        for match in BLOCK.finditer(text)
        if match[1] in languages
    ]


def words_of(command: str) -> list[str]:
    """A command line without its comment and its `> FILE`."""
    words = shlex.split(command, comments=True)
    return words[: words.index(">")] if ">" in words else words


def run_weft(command: str) -> None:
    """Run `weft …` in this process, as the command line does; any exit code but 0 is an error."""
    before, sys.argv = sys.argv, words_of(command)
    try:
        main()
    except SystemExit as end:
        assert not end.code, f"exit code {end.code}: {command}"
    finally:
        sys.argv = before


def parse_weft(command: str) -> None:
    """Parse `weft …` and do nothing: every subcommand, option and argument must be known."""
    subcommand, words = find_command(words_of(command)[1:])
    subcommand.make_context("weft", words)


def find_command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that words name, and the words behind its name; an unknown one is a KeyError."""
    command: Any = get_command(app)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        command, words = command.commands[words[0]], words[1:]
    return command, words


def mentions(document: Path) -> set[str]:
    """The commands in a document's running text: `weft …` in single backticks."""
    text = re.sub(r"^```.*?^```$", "", document.read_text("utf-8"), flags=re.M | re.S)
    return set(re.findall(r"`(weft [^`\n]+)`", text))


def run_python(block: DocBlock, names: dict[str, Any], replace: dict[str, str]) -> None:
    """Run a block of Python; `names` is what earlier blocks of the page defined."""
    text = block.text
    for old, new in replace.items():
        text = text.replace(old, new)
    exec(compile("\n" * (block.line - 1) + text, str(block.document), "exec"), names)
