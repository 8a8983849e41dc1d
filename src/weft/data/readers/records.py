"""Files with one record a line (JSON objects or Python literals) -> tables."""

from __future__ import annotations

import ast
import json
import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from weft.artifacts.documents import check_nesting, decode_json
from weft.data.faults import refusal
from weft.data.ids import float_ids
from weft.data.raw import NO_BAD_ROWS, BadRows, Table
from weft.data.readers.cells import (
    Ids,
    Taker,
    Wrong,
    as_text,
    is_title,
    no_title,
    numbers,
    plain_texts,
    titles,
)
from weft.data.readers.files import read_lines
from weft.data.readers.json_array import is_array, read_array
from weft.errors import DataError

Record = dict[str, Any]
Parse = Callable[[str], object]
NEEDED = ("user_id", "item_id", "timestamp")
CHUNK = 100_000  # rows held as Python objects before they become a frame
SEEN = 100  # records whose fields are remembered, to name them

UNREADABLE = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)
BYTE = re.compile("[\udc80-\udcff]")  # a byte that is no text
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # an escape that may be half a character


def parse_record(line: str) -> object:
    return decode_json(line)


def parse_literal(line: str) -> object:
    """JSON, or a Python literal (never evaluated as code)."""
    try:
        return decode_json(line)
    except json.JSONDecodeError:
        check_nesting(line)
        return ast.literal_eval(line)


def read_log(
    file: Path,
    fields: Mapping[str, str],
    texts: tuple[str, ...],
    parse: Parse,
    *,
    drop_bad: bool = False,
    encoding: str | None = None,
) -> Table:
    """Interactions: `fields` maps weft's column -> the record's field.

    user_id, item_id and timestamp must be in every record; a missing rating is an empty cell;
    the columns of `texts` are the item's texts, a missing one is "". A field that is a list is
    its JSON (`lists.expand_lists` makes rows of it). `drop_bad` leaves out what can't be read.
    """
    known: dict[str, Taker] = {
        "user_id": Ids(), "item_id": Ids(), "timestamp": numbers, "rating": numbers,
    }  # fmt: skip
    takers = {column: taker for column, taker in known.items() if column in fields}
    takers |= {text: titles if text == "title" else plain_texts for text in texts}
    source = _RecordFile(file, parse, encoding, drop_bad)
    return _read(source, {c: fields.get(c, c) for c in takers}, takers)


def read_item_records(
    file: Path,
    row: Callable[[Record], Record],
    parse: Parse,
    *,
    drop_bad: bool = False,
    encoding: str | None = None,
    item_field: str = "item_id",
) -> Table:
    """Items: `row` turns a record into weft's columns (`item_id` and texts) or `{}` to skip it.

    The columns are those of all rows together; what a row lacks is "". `item_field` is the name
    of the id in the file.
    """
    source = _RecordFile(file, parse, encoding, drop_bad)
    ids: list[object] = []
    lines = array("Q")
    columns: dict[str, list[str]] = {}
    for line, record in source.records():
        cells = row(record)
        if not cells:
            continue
        if not is_title(cells.get("title")):
            source.reject(line, f"field 'title' {no_title(cells['title'])}")
            continue
        ids.append(cells.pop("item_id", None))
        for column, value in cells.items():
            texts = columns.setdefault(column, [])
            texts.extend([""] * (len(lines) - len(texts)))
            texts.append(as_text(value))
        lines.append(line)
    for texts in columns.values():
        texts.extend([""] * (len(lines) - len(texts)))
    series, wrong = Ids()(ids, lines)
    frame = pl.DataFrame({"item_id": series, **columns})
    keep = source.settle({"item_id": wrong}, {"item_id": item_field}, lines)
    if keep is not None:
        frame, lines = frame.filter(keep), array("Q", pl.Series(lines).filter(keep).to_list())
    header = ("item_id", *columns)
    place = source.place(lines)
    return Table(file, frame.lazy(), place, bad=source.bad, header=header)


def _read(source: _RecordFile, fields: Mapping[str, str], takers: Mapping[str, Taker]) -> Table:
    lines, chunks = array("Q"), list[pl.DataFrame]()
    cells: dict[str, list[object]] = {column: [] for column in takers}
    plan = [(fields[c], c in NEEDED, cells[c].append) for c in takers]
    left = array("Q")

    def flush() -> None:
        taken = {c: taker(cells[c], lines) for c, taker in takers.items()}
        frame = pl.DataFrame({c: series for c, (series, _) in taken.items()})
        keep = source.settle({c: wrong for c, (_, wrong) in taken.items()}, fields, lines)
        chunks.append(frame if keep is None else frame.filter(keep))
        left.extend(lines if keep is None else pl.Series(lines).filter(keep).to_list())
        del lines[:]
        for values in cells.values():
            values.clear()

    for line, record in source.records():
        lacks = next((name for name, needed, _ in plan if needed and name not in record), None)
        if lacks is not None:
            there = ", ".join(map(str, record)) or "none"
            what = f"there is no field '{lacks}' (its fields: {there})"
            if not lines and not chunks:  # the first record: another name, or another format
                if record and all(isinstance(one, list | dict) for one in record.values()):
                    raise DataError(
                        f"{source.file}: one object of columns or lists, not one of each row (its"
                        f" fields: {there}); write an array of objects or one a line (pandas:"
                        " orient='records')"
                    )
                what += "; map it with --column, or name the --format"
            source.reject(line, what)
            continue
        for name, _, append in plan:
            append(record.get(name))
        lines.append(line)
        if len(lines) == CHUNK:
            flush()
    flush()
    if source.bad.count and not left:
        raise DataError(f"{source.bad.first[0]}; all records are bad, so none is left")
    frame = pl.concat(chunks)
    return Table(
        source.file, frame.lazy(), source.place(left), dict(fields), source.bad,
        header=tuple(source.fields), notes=_float_notes(source.file, takers, fields),
    )  # fmt: skip


def _float_notes(
    file: Path, takers: Mapping[str, Taker], fields: Mapping[str, str]
) -> tuple[str, ...]:
    return tuple(
        float_ids(file, fields[column])
        for column, taker in takers.items()
        if isinstance(taker, Ids) and taker.floats
    )


@dataclass
class _RecordFile:
    """A file of records, one a line or all in one JSON array, and what of it was left out."""

    file: Path
    parse: Parse
    encoding: str | None
    drop_bad: bool
    bad: BadRows = NO_BAD_ROWS
    fields: dict[str, None] = field(default_factory=dict)  # of the first records, in order
    word: str = "line"

    def place(self, lines: Sequence[int]) -> Callable[[int], str]:
        return lambda at: f"{self.word} {lines[at]}"

    def records(self) -> Iterator[tuple[int, Record]]:
        """(line, or number in the array, from 1; record)."""
        seen = 0
        for line, record in self._parsed():
            if not isinstance(record, dict):
                self.reject(line, f"a {type(record).__name__}, not an object")
                continue
            if seen < SEEN:
                seen += 1
                self.fields.update(dict.fromkeys(map(str, record)))
            yield line, record

    def _parsed(self) -> Iterator[tuple[int, object]]:
        if is_array(self.file, self.encoding):
            self.word = "entry"
            yield from enumerate(read_array(self.file, self.encoding, self.parse), 1)
            return
        errors = "surrogateescape" if self.drop_bad else "strict"
        for line, text in read_lines(self.file, self.encoding, errors=errors):
            if self.drop_bad and not text.isascii() and BYTE.search(text):
                self.reject(line, "not UTF-8 text")
                continue
            try:
                record = self.parse(text)
            except UNREADABLE as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                self.reject(line, f"not a readable record ({reason}){_form(text, line)}")
                continue
            if SURROGATE.search(text):
                record = _without_surrogates(record)
            yield line, record

    def reject(self, line: int, what: str) -> None:
        """Leave a record out, or raise `DataError`."""
        sentence = f"{self.file}, {self.word} {line}: {what}"
        if not self.drop_bad:
            raise refusal(sentence)
        self.bad = self.bad.and_one(sentence)

    def settle(
        self, wrong: Mapping[str, Wrong], fields: Mapping[str, str], lines: Sequence[int]
    ) -> pl.Series | None:
        """Which rows stay (None: all), after those with a value of a wrong type are rejected."""
        rows = sorted({row for of_column in wrong.values() for row in of_column})
        if not rows:
            return None
        for row in rows:
            column = next(c for c in wrong if row in wrong[c])
            self.reject(lines[row], f"field '{fields[column]}' {wrong[column][row]}")
        keep = np.ones(len(lines), dtype=bool)
        keep[rows] = False
        return pl.Series(keep)


def _form(text: str, line: int) -> str:
    """What to say of the first line of a file that has another form."""
    if line > 1:
        return ""
    if text.strip() in ("{", "[{", "["):
        return "; an object must stand on one line (jq -c . FILE writes it so)"
    if text.lstrip().startswith("{'"):
        return "; Python's dicts are read as --format amazon-2014 alone; write them with json.dumps"
    return ""


def _without_surrogates(value: object) -> object:
    """Join escaped surrogate pairs; half of one (a cut emoji) becomes the replacement sign."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list | tuple):
        return [_without_surrogates(one) for one in value]
    if isinstance(value, dict):
        return {_without_surrogates(k): _without_surrogates(v) for k, v in value.items()}
    return value
