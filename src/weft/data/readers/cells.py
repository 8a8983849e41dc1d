"""The values of one field of many records -> a column, and which of them are of a wrong type."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from types import NoneType

import polars as pl

Wrong = dict[int, str]  # row -> what is wrong with its value
Taker = Callable[[list[object], Sequence[int]], tuple[pl.Series, Wrong]]
"""Values and the lines of their records -> the column (null where wrong), and the wrong ones."""

WORDS = {str: "text", int: "a number", list: "a list"}


class Ids:
    """A column of ids over all its chunks: all text, all whole numbers, or all lists of such.

    Numbers become text (12345.0 is 12345); lists become their JSON.
    """

    def __init__(self) -> None:
        self.kind: type | None = None
        self.since = 0
        self.floats = False  # were some written like 12345.0?

    def __call__(self, values: list[object], lines: Sequence[int]) -> tuple[pl.Series, Wrong]:
        kinds = set(map(type, values)) - {NoneType}
        if kinds == {str} and self.kind in (None, str):
            if self.kind is None:
                self.kind, self.since = str, lines[_first(values)]
            return pl.Series(values, dtype=pl.String), {}
        if kinds == {int} and self.kind in (None, int):
            if self.kind is None:
                self.kind, self.since = int, lines[_first(values)]
            return pl.Series([None if v is None else str(v) for v in values], dtype=pl.String), {}
        out: list[str | None] = []
        wrong: Wrong = {}
        for row, value in enumerate(values):
            text, what = self._one(value, lines[row])
            out.append(text)
            if what:
                wrong[row] = what
        return pl.Series(out, dtype=pl.String), wrong

    def _one(self, value: object, line: int) -> tuple[str | None, str]:
        """The id as text, and what is wrong with it."""
        if value is None:
            return None, ""
        number = _whole(value)
        self.floats |= number is not None and isinstance(value, float)
        kind = int if number is not None else type(value)
        if kind not in WORDS or (isinstance(value, list) and not _all_ids(value)):
            return None, f"= {_short(value)} is no id; ids are text or whole numbers"
        if self.kind is None:
            self.kind, self.since = kind, line
        elif kind is not self.kind:
            return None, (
                f"= {_short(value)} is {WORDS[kind]}, but it is {WORDS[self.kind]} on line"
                f" {self.since}; ids must be all text or all numbers"
            )
        if isinstance(value, list):
            return json.dumps([one if (n := _whole(one)) is None else str(n) for one in value]), ""
        return str(value) if number is None else str(number), ""


def numbers(values: list[object], lines: Sequence[int]) -> tuple[pl.Series, Wrong]:
    """Times or ratings: numbers, or texts that are read as such later, or lists of them.

    As text, so that every chunk has one type and no digit is lost.
    """
    odd = set(map(type, values)) - {NoneType, int, float, str}
    wrong: Wrong = {}
    if odd:
        wrong = {
            row: f"= {_short(value)} is not a number or a time"
            for row, value in enumerate(values)
            if type(value) in odd and not (isinstance(value, list) and _all_numbers(value))
        }
    texts = [
        None if value is None or row in wrong
        else json.dumps([one if one is None else str(one) for one in value]) if isinstance(value, list)
        else str(value)
        for row, value in enumerate(values)
    ]  # fmt: skip
    return pl.Series(texts, dtype=pl.String), wrong


def plain_texts(values: list[object], lines: Sequence[int]) -> tuple[pl.Series, Wrong]:
    """The item's texts."""
    return pl.Series(list(map(as_text, values)), dtype=pl.String), {}


def titles(values: list[object], lines: Sequence[int]) -> tuple[pl.Series, Wrong]:
    """The items' titles: texts, numbers, or lists of such."""
    wrong = {row: no_title(value) for row, value in enumerate(values) if not is_title(value)}
    texts = [None if row in wrong else as_text(value) for row, value in enumerate(values)]
    return pl.Series(texts, dtype=pl.String), wrong


def is_title(value: object) -> bool:
    """Is the value itself a text? An object (a title in several languages) is none."""
    if isinstance(value, list | tuple):
        return all(map(is_title, value))
    return not isinstance(value, dict)


def no_title(value: object) -> str:
    """What is wrong with a title that is none."""
    return f"= {_short(value)} is no title; titles are text"


def as_text(value: object) -> str:
    """A record's value as text: lists are joined with ", ", null is ""."""
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(text for text in map(as_text, value) if text)
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _whole(value: object) -> int | None:
    """The whole number that a value is, if it is one that no float has cut."""
    if type(value) is int:
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return None


def _all_ids(values: list[object]) -> bool:
    return all(v is None or isinstance(v, str) or _whole(v) is not None for v in values)


def _all_numbers(values: list[object]) -> bool:
    return all(v is None or type(v) in (int, float, str) for v in values)


def _first(values: list[object]) -> int:
    return next(row for row, value in enumerate(values) if value is not None)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
