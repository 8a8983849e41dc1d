"""CSV and TSV, plain or gzipped, with a column map."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import polars as pl

from weft.data.raw import RawLog, Table
from weft.data.readers.files import read_all
from weft.data.source import Source
from weft.errors import WeftError


def read_csv(source: Source) -> RawLog:
    """Comma-separated values."""
    return _read(source, ",")


def read_tsv(source: Source) -> RawLog:
    """Tab-separated values."""
    return _read(source, "\t")


def _read(source: Source, separator: str) -> RawLog:
    log = read_table(source.interactions, separator, source.columns, header=source.header)
    items = None
    if source.items is not None:
        items = read_table(source.items, separator, source.item_columns, header=source.header)
    else:
        log = only_item_texts(log, source.columns)
    return RawLog(log, items, source.time_unit or "s")


def only_item_texts(log: Table, columns: Mapping[str, str]) -> Table:
    """Without an items file: of the log's other columns keep those mapped by name, and `title`.

    What else a log has (prices paid, sessions, …) tells about an interaction, not an item.
    """
    log.require("user_id", "item_id")
    wanted = {"user_id", "item_id", "timestamp", "rating", "title", *columns}
    frame = log.frame.select([c for c in log.columns() if c in wanted])
    return Table(log.file, frame, log.place, log.names)


def read_table(
    file: Path,
    separator: str,
    columns: Mapping[str, str] | None = None,
    *,
    quoted: bool = True,
    header: bool = True,
) -> Table:
    """A delimited text file as a table of strings.

    `columns` maps weft's names to the file's. Blank lines are skipped. Raises `WeftError` with
    the line for a record with too many fields, an open quote or bytes that are not UTF-8.
    """
    data = read_all(file)
    quote = '"' if quoted else None
    try:
        frame = pl.read_csv(
            data, separator=separator, has_header=header, infer_schema=False,
            quote_char=quote, empty_string_is_null=False,
        )  # fmt: skip
    except pl.exceptions.PolarsError as error:
        raise _explain(file, data, separator, quote, error) from None
    if not header:
        frame.columns = [str(number + 1) for number in range(frame.width)]
    blank = frame.select(pl.all_horizontal(pl.all() == "")).to_series() if frame.height else None
    record = None
    if blank is not None and blank.any():
        record = np.flatnonzero(~blank.to_numpy())
        frame = frame.filter(~blank)

    def place(row: int) -> str:
        at = row if record is None else int(record[row])
        return f"line {_line_of(read_all(file), separator, quote, at + header)}"

    table = Table(file, frame.lazy(), place)
    return rename(table, columns or {})


def rename(table: Table, columns: Mapping[str, str]) -> Table:
    """The table under weft's names: `columns` maps weft's name -> the file's."""
    named = Table(table.file, table.frame, table.place)
    named.require(*columns.values())
    taken = {*columns, *columns.values()}
    frame = table.frame.select(
        *(pl.col(theirs).alias(ours) for ours, theirs in columns.items()),
        *(pl.col(c) for c in table.columns() if c not in taken),
    )
    return Table(table.file, frame, table.place, dict(columns))


def _records(
    data: bytes, separator: str, quote: str | None, *, strict: bool
) -> Iterator[tuple[int, list[str]]]:
    """(line on which it begins, fields) of every record; a blank line has no fields."""
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(
        io.StringIO(data.decode("utf-8-sig", "replace"), newline=""),
        delimiter=separator,
        quotechar=quote,
        quoting=csv.QUOTE_NONE if quote is None else csv.QUOTE_MINIMAL,
        strict=strict,
    )
    line = 1
    try:
        for fields in reader:
            yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"line {line}: {error}") from None


def _line_of(data: bytes, separator: str, quote: str | None, record: int) -> int:
    """The line (from 1) on which the record (from 0) begins."""
    records = _records(data, separator, quote, strict=False)
    return next((line for number, (line, _) in enumerate(records) if number == record), record + 1)


def _explain(
    file: Path, data: bytes, separator: str, quote: str | None, error: Exception
) -> WeftError:
    """Find the first record that polars could not read, to name its line."""
    if isinstance(error, pl.exceptions.NoDataError):
        return WeftError(f"{file} has no rows")
    for number, text in enumerate(data.splitlines(), 1):
        try:
            text.decode()
        except UnicodeDecodeError as broken:
            return WeftError(f"{file}, line {number}: not UTF-8 text ({broken.reason})")
    width = 0
    try:
        for line, fields in _records(data, separator, quote, strict=True):
            width = width or len(fields)
            if len(fields) > width:
                what = f"{len(fields)} fields, but the first line has {width}"
                return WeftError(f"{file}, line {line}: {what}")
    except ValueError as broken:
        return WeftError(f"{file}, {broken}")
    return WeftError(f"{file} can't be read as delimited text: {str(error).splitlines()[0]}")
