"""Delimited text record by record, as Python's `csv` reads it: for files that are not plain."""

from __future__ import annotations

import csv
import functools
import io
import itertools
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from weft.data.faults import refusal
from weft.data.raw import BadRows
from weft.data.readers.files import ENCODING
from weft.errors import DataError

QUOTING = "; a file in which quotes are characters like any is read with --quoting none"

LOOSE = "loose"  # text after a field's closing quote, within a line


@dataclass(frozen=True, eq=False)
class Records:
    """All records as columns of text, the line (from 1) on which each begins, and those left out."""

    frame: pl.DataFrame
    lines: Sequence[int]
    bad: BadRows
    notes: tuple[str, ...]

    @staticmethod
    def line_of(data: bytes, separator: str, quoted: bool, record: int) -> int:
        """The line on which the record (from 0) begins; blank lines are no records but count."""
        text = data.decode("utf-8-sig", "replace")
        every = (one.line for one in _records(text, separator, quoted))
        return next(itertools.islice(every, record, None), record + 1)


def read_records(
    file: Path, data: bytes, separator: str, *, quoted: bool, header: bool, drop_bad: bool
) -> Records:
    """Raises `DataError`, naming the line, for what is no record, unless `drop_bad`.

    That is one with too many fields, with bytes that are not UTF-8, or with a quoted field that
    runs over lines and doesn't end where a field ends.
    """
    text = data.decode("utf-8-sig", "surrogateescape")
    width, names = 0, list[str]()
    columns: list[list[str | None]] = []
    lines, bad = array("Q"), BadRows()
    loose = array("Q")
    for line, fields, quotes in _records(text, separator, quoted):
        if not any(fields) and not quotes:
            continue
        if width and len(fields) > width and not any(fields[width:]):
            fields = fields[:width]  # separators at the end, with nothing between them
        wrong = _wrong(fields, width, quotes if quotes != LOOSE else "")
        if wrong:
            sentence = f"{file}, line {line}: {wrong}"
            if not drop_bad or not width:
                raise refusal(sentence) if width else DataError(sentence)
            bad = bad.and_one(sentence)
            continue
        if not width:
            width, columns = len(fields), [[] for _ in fields]
            names = _unique(fields) if header else [str(n + 1) for n in range(width)]
            if header:
                continue
        for column, value in itertools.zip_longest(columns, fields):
            column.append(value)
        lines.append(line)
        if quotes == LOOSE:
            loose.append(line)
    if not width:
        raise DataError(f"{file} has no rows")
    frame = pl.DataFrame(
        [pl.Series(n, c, dtype=pl.String) for n, c in zip(names, columns, strict=True)]
    )
    notes = () if not loose else (_loose_note(file, loose),)
    return Records(frame, lines, bad, notes)


def _loose_note(file: Path, lines: Sequence[int]) -> str:
    return (
        f"{file}: in {len(lines):,} rows (the first: line {lines[0]}) a field goes on after its closing"
        f" quote, and is read as Python's csv does{QUOTING}"
    )


def _wrong(fields: list[str], width: int, broken: str) -> str:
    if broken:
        return broken
    if any(not field.isascii() and _undecoded(field) for field in fields):
        return f"not UTF-8 text; {ENCODING}"
    if width and len(fields) > width:
        is_header = " (is that the header?)" if width == 1 else ""
        return f"{len(fields)} fields, but the first line has {width}{is_header}"
    return ""


def _undecoded(field: str) -> bool:
    return any("\ud800" <= one <= "\udfff" for one in field)


def _unique(names: list[str]) -> list[str]:
    """Repeated column names get a suffix, as polars gives them."""
    seen: dict[str, int] = {}
    out = []
    for name in names:
        count = seen.get(name, 0)
        seen[name] = count + 1
        out.append(f"{name}_duplicated_{count - 1}" if count else name)
    return out


class _Record(NamedTuple):
    line: int  # on which it begins, from 1
    fields: list[str]  # none: a blank line
    quotes: str  # what is wrong with them


def _records(text: str, separator: str, quoted: bool) -> Iterator[_Record]:
    """Every record. One whose quoting is broken is its first line alone: the lines that an open
    quote swallows come again, as further records.
    """
    csv.field_size_limit(2**31 - 1)
    read = functools.partial(
        csv.reader,
        delimiter=separator,
        quotechar='"' if quoted else None,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
    )
    lines = iter(io.StringIO(text, newline=""))
    passed: list[str] = []  # the lines of the record that is being read

    def watched() -> Iterator[str]:
        for one in lines:
            passed.append(one)
            yield one

    reader, line = read(watched()), 1
    while (fields := next(reader, None)) is not None:
        quotes = _quotes(passed, read) if quoted and '"' in passed[0] else ""
        if quotes and quotes != LOOSE:
            lines = itertools.chain(passed[1:], lines)
            del passed[1:]
            reader = read(watched())
        yield _Record(line, fields, quotes)
        line += len(passed)
        passed.clear()


def _quotes(lines: list[str], read: Callable[..., Any]) -> str:
    """What is wrong with the quotes of a record; `LOOSE` if that stays within its line."""
    try:
        for _ in read(iter(lines), strict=True):
            pass
    except csv.Error as error:
        if len(lines) == 1 and "unexpected end" not in str(error):
            return LOOSE
        return f"a quoted field begins there and doesn't end where a field ends ({error}){QUOTING}"
    return ""
