"""Files with one record a line (JSON objects or Python literals) -> tables."""

from __future__ import annotations

import ast
import json
import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

import polars as pl

from weft.data.raw import Table
from weft.data.readers.files import read_lines
from weft.errors import WeftError

Record = dict[str, Any]
Taker = Callable[[list[object], Sequence[int]], pl.Series]  # values and their lines -> a column
NEEDED = ("user_id", "item_id", "timestamp")
CHUNK = 100_000  # rows held as Python objects before they become a frame

SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # an escape that may be half a character


def parse_json(line: str) -> object:
    return json.loads(line)


def parse_literal(line: str) -> object:
    """JSON, or a Python literal (never evaluated as code)."""
    try:
        return json.loads(line)
    except ValueError:
        return ast.literal_eval(line)


def read_log(
    file: Path, fields: Mapping[str, str], texts: tuple[str, ...], parse: Callable[[str], object]
) -> Table:
    """Interactions: `fields` maps weft's column -> the record's field.

    user_id, item_id and timestamp must be in every record; a missing rating is an empty cell;
    the columns of `texts` are the item's texts, a missing one is "".
    """
    known: dict[str, Taker] = {
        "user_id": _Ids(), "item_id": _Ids(), "timestamp": _numbers, "rating": _numbers,
    }  # fmt: skip
    takers = {column: taker for column, taker in known.items() if column in fields}
    takers |= dict.fromkeys(texts, _texts)
    return _read(file, {c: fields.get(c, c) for c in takers}, takers, parse)


def read_items(
    file: Path, row: Callable[[Record], Record], parse: Callable[[str], object]
) -> Table:
    """Items: `row` turns a record into weft's columns (`item_id` and texts) or `{}` to skip it.

    The columns are those of all rows together; what a row lacks is "".
    """
    ids: list[object] = []
    lines = array("Q")
    columns: dict[str, list[str]] = {}
    for line, record in _records(file, parse):
        cells = row(record)
        if not cells:
            continue
        ids.append(cells.pop("item_id", None))
        for column, value in cells.items():
            texts = columns.setdefault(column, [])
            texts.extend([""] * (len(lines) - len(texts)))
            texts.append(as_text(value))
        lines.append(line)
    for texts in columns.values():
        texts.extend([""] * (len(lines) - len(texts)))
    frame = pl.DataFrame({"item_id": _take(file, "item_id", _Ids(), ids, lines), **columns})
    return Table(file, frame.lazy(), lambda at: f"line {lines[at]}")


def as_text(value: object) -> str:
    """A record's value as text: lists are joined with ", ", null is ""."""
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(text for text in map(as_text, value) if text)
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _read(
    file: Path,
    fields: Mapping[str, str],
    takers: Mapping[str, Taker],
    parse: Callable[[str], object],
) -> Table:
    lines, chunks = array("Q"), list[pl.DataFrame]()
    cells: dict[str, list[object]] = {column: [] for column in takers}
    plan = [(fields[c], c in NEEDED, cells[c].append) for c in takers]

    def flush() -> None:
        here = lines[CHUNK * len(chunks) :]
        chunks.append(
            pl.DataFrame({c: _take(file, fields[c], takers[c], cells[c], here) for c in takers})
        )
        for values in cells.values():
            values.clear()

    for line, record in _records(file, parse):
        for field, needed, append in plan:
            if needed and field not in record:
                there = ", ".join(map(str, record)) or "none"
                raise WeftError(
                    f"{file}, line {line}: there is no field '{field}' (its fields: {there})"
                )
            append(record.get(field))
        lines.append(line)
        if len(lines) % CHUNK == 0:
            flush()
    flush()
    frame = pl.concat(chunks)
    return Table(file, frame.lazy(), lambda at: f"line {lines[at]}", dict(fields))


def _take(
    file: Path, field: str, taker: Taker, values: list[object], lines: Sequence[int]
) -> pl.Series:
    try:
        return taker(values, lines)
    except _WrongValueError as wrong:
        raise WeftError(f"{file}, line {wrong.line}: field '{field}' {wrong}") from None


def _records(file: Path, parse: Callable[[str], object]) -> Iterator[tuple[int, Record]]:
    for line, text in read_lines(file):
        try:
            record = parse(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise WeftError(f"{file}, line {line}: not a readable record ({reason})") from None
        if SURROGATE.search(text):
            record = _without_surrogates(record)
        if not isinstance(record, dict):
            raise WeftError(f"{file}, line {line}: a {type(record).__name__}, not an object")
        yield line, record


def _without_surrogates(value: object) -> object:
    """Join escaped surrogate pairs; half of one (a cut emoji) becomes the replacement sign."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list | tuple):
        return [_without_surrogates(one) for one in value]
    if isinstance(value, dict):
        return {_without_surrogates(k): _without_surrogates(v) for k, v in value.items()}
    return value


class _WrongValueError(Exception):
    """A value of the wrong type, and its line."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line


class _Ids:
    """A column of ids, over all its chunks: all text, or all whole numbers (which become text)."""

    def __init__(self) -> None:
        self.kind: type | None = None
        self.since = 0

    def __call__(self, values: list[object], lines: Sequence[int]) -> pl.Series:
        for kind in set(map(type, values)) - {NoneType}:
            if kind not in (str, int) or kind is not (self.kind or kind):
                break
            if self.kind is None:
                self.kind, self.since = kind, lines[_first(values, kind)]
        else:
            if self.kind is int:
                values = [None if value is None else str(value) for value in values]
            return pl.Series(values, dtype=pl.String)
        raise self._wrong(values, lines)

    def _wrong(self, values: list[object], lines: Sequence[int]) -> _WrongValueError:
        kind, since = None, 0
        if self.since < lines[0]:  # settled in an earlier chunk
            kind, since = self.kind, self.since
        words = {str: "text", int: "a number"}
        for value, line in zip(values, lines, strict=True):
            if value is None:
                continue
            if type(value) not in words:
                return _WrongValueError(
                    line, f"= {value!r} is no id; ids are text or whole numbers"
                )
            if kind is None:
                kind, since = type(value), line
            elif type(value) is not kind:
                what = (
                    f"= {value!r} is {words[type(value)]}, but it is {words[kind]} on line {since};"
                    " ids must be all text or all numbers"
                )
                return _WrongValueError(line, what)
        raise AssertionError("no wrong id")


def _numbers(values: list[object], lines: Sequence[int]) -> pl.Series:
    """Times or ratings: numbers, or texts that are read as such later.

    As text, so that every chunk has one type and no digit is lost.
    """
    wrong = set(map(type, values)) - {NoneType, int, float, str}
    if wrong:
        row = min(_first(values, kind) for kind in wrong)
        raise _WrongValueError(lines[row], f"= {values[row]!r} is not a number or a time")
    return pl.Series([None if value is None else str(value) for value in values], dtype=pl.String)


def _texts(values: list[object], lines: Sequence[int]) -> pl.Series:
    """The item's texts."""
    return pl.Series(list(map(as_text, values)), dtype=pl.String)


def _first(values: list[object], kind: type) -> int:
    return next(row for row, value in enumerate(values) if type(value) is kind)
