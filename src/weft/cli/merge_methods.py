"""The merging methods as text: all of them in short, or one in full."""

from __future__ import annotations

import inspect
import shutil
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weft.merging.methods.describe import MethodDoc


def table(methods: Sequence[MethodDoc]) -> str:
    """A line or two a method: what it does, what it merges, its options with their defaults."""
    width = max(60, min(shutil.get_terminal_size((100, 24)).columns, 110))
    column = max(len(doc.name) for doc in methods) + 2
    lines: list[str] = []
    for doc in methods:
        options = [f"--{_dashed(name)} {default}" for name, _, default, _ in doc.options]
        summary = f"{doc.summary} ({_merges(doc)})"
        lines += _wrapped(summary, width, doc.name.ljust(column), " " * column)
        for line in textwrap.wrap("   ".join(options), width - column, break_long_words=False):
            lines.append(" " * column + line)
        lines.append("")
    lines.append("`weft methods NAME` describes one in full; `weft merge … --method NAME` uses it.")
    return "\n".join(lines)


def one_method(doc: MethodDoc) -> str:
    """What a method computes, where it is from, and its options with their meaning."""
    from weft.merging.methods.registry import METHODS

    text = inspect.cleandoc(METHODS[doc.name].__doc__ or doc.summary)
    lines = [f"{doc.name}: {text}", "", f"merges  {_merges(doc)}", f"source  {doc.source}"]
    for name, kind, default, meaning in doc.options:
        lines += ["", f"--{_dashed(name)} ({kind}, default {default})"]
        lines += _wrapped(meaning, 96, "    ", "    ") if meaning else []
    return "\n".join(lines)


def _merges(doc: MethodDoc) -> str:
    counts = {"1+": "any number of", "2+": "2 or more", "2": "exactly 2"}
    several = "" if doc.parts == "1" else "s"
    kinds = [
        *([f"adapter{several}"] if doc.for_adapters else []),
        *([f"checkpoint{several}"] if doc.for_checkpoints else []),
    ]
    base = "; checkpoints need a base" if doc.needs_base and doc.for_checkpoints else ""
    return f"{counts.get(doc.parts, doc.parts)} {' or '.join(kinds)}{base}"


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _wrapped(text: str, width: int, first: str, then: str) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=then)
