"""Files with one record a line (JSON objects or Python literals) -> tables."""

from __future__ import annotations

import ast
import json
from array import array
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from weft.data.raw import Table
from weft.data.readers.files import read_lines
from weft.errors import WeftError

Record = dict[str, Any]
CHUNK = 100_000  # rows held as Python objects before they become a frame


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
    cells: dict[str, _Ids | _Numbers | _Texts] = {}
    for column in fields:
        if column in ("user_id", "item_id"):
            cells[column] = _Ids()
        elif column in ("timestamp", "rating"):
            cells[column] = _Numbers()
    cells.update({column: _Texts() for column in texts})
    return _read(file, fields, cells, {"user_id", "item_id", "timestamp"}, parse)


def read_items(
    file: Path, row: Callable[[Record], Record], parse: Callable[[str], object]
) -> Table:
    """Items: `row` turns a record into weft's columns (`item_id` and texts) or `{}` to skip it.

    The columns are those of all rows together; what a row lacks is "".
    """
    ids, lines = _Ids(), array("Q")
    columns: dict[str, list[str]] = {}
    for line, record in _records(file, parse):
        cells = row(record)
        if not cells:
            continue
        try:
            ids.add(cells.pop("item_id", None), line)
        except ValueError as error:
            raise WeftError(f"{file}, line {line}: field 'item_id' {error}") from None
        for column, value in cells.items():
            texts = columns.setdefault(column, [])
            texts.extend([""] * (len(lines) - len(texts)))
            texts.append(as_text(value))
        lines.append(line)
    for texts in columns.values():
        texts.extend([""] * (len(lines) - len(texts)))
    frame = pl.DataFrame({"item_id": ids.take(), **columns}, strict=False)
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
    cells: Mapping[str, _Ids | _Numbers | _Texts],
    needed: set[str],
    parse: Callable[[str], object],
) -> Table:
    lines, chunks = array("Q"), list[pl.DataFrame]()
    for line, record in _records(file, parse):
        for column, cell in cells.items():
            field = fields.get(column, column)
            if column in needed and field not in record:
                there = ", ".join(map(str, record)) or "none"
                raise WeftError(
                    f"{file}, line {line}: there is no field '{field}' (its fields: {there})"
                )
            try:
                cell.add(record.get(field), line)
            except ValueError as error:
                raise WeftError(f"{file}, line {line}: field '{field}' {error}") from None
        lines.append(line)
        if len(lines) % CHUNK == 0:
            chunks.append(pl.DataFrame({c: cell.take() for c, cell in cells.items()}))
    chunks.append(pl.DataFrame({c: cell.take() for c, cell in cells.items()}))
    frame = pl.concat(chunks, how="vertical_relaxed")
    names = {c: fields[c] for c in cells if c in fields}
    return Table(file, frame.lazy(), lambda at: f"line {lines[at]}", names)


def _records(file: Path, parse: Callable[[str], object]) -> Iterator[tuple[int, Record]]:
    for line, text in read_lines(file):
        try:
            record = parse(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise WeftError(f"{file}, line {line}: not a readable record ({reason})") from None
        if not isinstance(record, dict):
            raise WeftError(f"{file}, line {line}: a {type(record).__name__}, not an object")
        yield line, record


class _Ids:
    """A column of ids: all texts, or all whole numbers (which become text)."""

    def __init__(self) -> None:
        self.values: list[str | None] = []
        self.kind: type | None = None
        self.since = 0

    def add(self, value: object, line: int) -> None:
        if value is None:
            self.values.append(None)
            return
        kind = type(value)
        if kind is not str and kind is not int:
            raise ValueError(f"= {value!r} is no id; ids are text or whole numbers")
        if self.kind is None:
            self.kind, self.since = kind, line
        elif kind is not self.kind:
            words = {str: "text", int: "a number"}
            raise ValueError(
                f"= {value!r} is {words[kind]}, but it is {words[self.kind]} on line {self.since};"
                " ids must be all text or all numbers"
            )
        self.values.append(str(value))

    def take(self) -> pl.Series:
        out, self.values = pl.Series(self.values, dtype=pl.String), []
        return out


class _Numbers:
    """A column of times or ratings: numbers, or texts that are read as such later."""

    def __init__(self) -> None:
        self.values: list[int | float | str | None] = []

    def add(self, value: object, line: int) -> None:
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int | float | str)
        ):
            raise ValueError(f"= {value!r} is not a number or a time")
        self.values.append(value)

    def take(self) -> pl.Series:
        # as text, so that every chunk has one type and no digit is lost
        out = pl.Series([None if v is None else str(v) for v in self.values], dtype=pl.String)
        self.values = []
        return out


class _Texts:
    """A column of the item's texts."""

    def __init__(self) -> None:
        self.values: list[str] = []

    def add(self, value: object, line: int) -> None:
        self.values.append(as_text(value))

    def take(self) -> pl.Series:
        out, self.values = pl.Series(self.values, dtype=pl.String), []
        return out
