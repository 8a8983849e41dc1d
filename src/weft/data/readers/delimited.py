"""CSV and TSV, plain or gzipped, with a column map."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from weft.data.column_names import ITEM_COLUMNS, LOG_COLUMNS
from weft.data.raw import Table
from weft.data.readers.csv_records import Records, read_records
from weft.data.readers.files import decode, is_utf8, read_all, refuse_utf16
from weft.data.readers.quotes import QUOTE, is_well_formed, rows_in_cells
from weft.data.source import Source
from weft.errors import DataError

HEAD = 1 << 16  # bytes that hold the first line
SEP_LINE = re.compile(rb"(\xef\xbb\xbf)?\"?sep=.\"?\r?\n", re.IGNORECASE)  # for Excel alone
SEPARATORS = {",": "','", ";": "';'", "\t": "tab", "|": "'|'"}


def read_csv(source: Source, file: Path, columns: Mapping[str, str]) -> Table:
    """Comma-separated values, or values with another `separator` between them."""
    return _read(source, file, columns, ",")


def read_tsv(source: Source, file: Path, columns: Mapping[str, str]) -> Table:
    """Tab-separated values."""
    return _read(source, file, columns, "\t")


def _read(source: Source, file: Path, columns: Mapping[str, str], separator: str) -> Table:
    """The log and the items may have different separators: the one named counts where it is."""
    wanted = source.separator
    if wanted is not None:
        first = decoded(file, source.encoding)[:HEAD].lstrip().split(b"\n", 1)[0]
        separator = (
            separator if wanted.encode() not in first and separator.encode() in first else wanted
        )
    table = read_table(
        file,
        separator,
        columns,
        quoted=source.quoting == "csv",
        header=source.header,
        encoding=source.encoding,
        drop_bad=source.bad_rows == "drop",
    )
    unread = [name for name in table.header if name not in columns.values()]
    if source.header or source.time_unit != "order" or file != source.interactions:
        return table
    if not unread or "title" in columns:
        return table
    names = ", ".join(unread[:5]) + (", …" if len(unread) > 5 else "")
    note = (
        f"{file}: column(s) {names} are not read; if a line is a user and then all of their items, put the"
        " items into one field (--list-separator) or write one row for each"
    )
    return replace(table, notes=(*table.notes, note))


def only_item_texts(log: Table, columns: Mapping[str, str]) -> Table:
    """Without an items file: of the log's other columns keep those mapped by name, and `title`.

    What else a log has (prices paid, sessions, …) describes an interaction, not an item.
    """
    log.require("user_id", "item_id")
    wanted = {*LOG_COLUMNS, "title", *columns}
    return replace(log, frame=log.frame.select([c for c in log.columns() if c in wanted]))


def read_table(
    file: Path,
    separator: str,
    columns: Mapping[str, str] | None = None,
    *,
    quoted: bool = True,
    header: bool = True,
    encoding: str | None = None,
    drop_bad: bool = False,
) -> Table:
    """A delimited text file as a table of strings, read as Python's `csv` reads it.

    `columns` maps weft's names to the file's. Blank lines are skipped. Raises `DataError` with
    the line for a record with too many fields, broken quoting or bytes that are not text in the
    encoding; `drop_bad` leaves such records out instead. Plain and well-formed files are read by
    polars, others record by record.
    """
    data = decoded(file, encoding)
    notes: tuple[str, ...] = ()
    if encoding is not None and is_utf8(read_all(file)):
        notes = (f"{file} is read as UTF-8, which it is, and not as {encoding}",)
    _refuse_separator(file, data, separator)
    table = None
    plain = b"\0" not in data and not _lone_returns(data)
    if plain and (not quoted or is_well_formed(data, separator)):
        table = _read_fast(file, data, separator, encoding, quoted=quoted, header=header)
    if table is None:
        records = read_records(
            file, data, separator, quoted=quoted, header=header, drop_bad=drop_bad
        )
        table = _from_records(file, records)
    if quoted and QUOTE in data:
        notes += _swallowed(table, separator, data.count(b"\n") - header)
    table = replace(table, notes=(*notes, *table.notes))
    return map_columns(*_plain_names(table, columns or {}) if header else (table, columns or {}))


def _plain_names(table: Table, columns: Mapping[str, str]) -> tuple[Table, Mapping[str, str]]:
    """A header like `user_id, item_id` without its spaces, and the cells of its columns too.

    Raises `DataError` if a column that weft reads is there twice.
    """
    wanted = {*LOG_COLUMNS, *ITEM_COLUMNS, *columns.values()}
    for name in table.header:
        if name in wanted and f"{name}_duplicated_0" in table.header:
            raise DataError(
                f"{table.file}: its header has '{name}' twice; give one of the columns another name"
            )
    spaced = [name for name in table.header if name != name.strip()]
    plain = [name.strip() for name in table.header]
    if not spaced or len(set(plain)) < len(plain) or not all(plain):
        return table, columns
    cells = [pl.col(n).str.strip_chars().alias(n.strip()) if n in spaced else pl.col(n)
             for n in table.header]  # fmt: skip
    table = replace(table, frame=table.frame.select(cells), header=tuple(plain))
    return table, {ours: theirs.strip() for ours, theirs in columns.items()}


def _swallowed(table: Table, separator: str, lines: int) -> tuple[str, ...]:
    frame = table.frame.collect()
    if lines <= frame.height:
        return ()  # no record runs over lines
    count, rows = rows_in_cells(frame, separator)
    if not count:
        return ()
    note = (
        f"{table.file}: {count:,} quoted fields (the first: {table.place(rows[0])}) run over lines that"
        " look like rows; if quotes are characters like any there, read it with --quoting none"
    )
    return (note,)


def decoded(file: Path, encoding: str | None) -> bytes:
    """The file's content as UTF-8; a line "sep=;" at its beginning is blank. Raises `DataError` for bytes that `encoding` doesn't have."""
    data = read_all(file)
    if encoding is not None:
        data = decode(file, data, encoding).encode()
    else:
        refuse_utf16(file, data)
    if line := SEP_LINE.match(data):
        return b"\n" + data[line.end() :]
    return data


def _read_fast(
    file: Path, data: bytes, separator: str, encoding: str | None, *, quoted: bool, header: bool
) -> Table | None:
    """The table, or None if polars can't read it: the reader of records says what is wrong."""
    quotes = quoted and QUOTE in data
    try:
        frame = pl.read_csv(
            data, separator=separator, has_header=header, infer_schema=False,
            quote_char='"' if quotes else None, empty_string_is_null=False,
        )  # fmt: skip
    except pl.exceptions.PolarsError:
        return None
    if not header:
        frame.columns = [str(number + 1) for number in range(frame.width)]
    blank = frame.select(pl.all_horizontal(pl.all() == "")).to_series() if frame.height else None
    record = None
    lead = data.removeprefix(b"\xef\xbb\xbf")
    skipped = lead[: len(lead) - len(lead.lstrip(b"\r\n"))].count(b"\n")  # blank, before the rest
    if blank is not None and blank.any():
        record = np.flatnonzero(~blank.to_numpy())
        frame = frame.filter(~blank)

    def place(row: int) -> str:
        at = (row if record is None else int(record[row])) + header + skipped
        return f"line {Records.line_of(decoded(file, encoding), separator, quoted, at)}"

    return Table(file, frame.lazy(), place, header=tuple(frame.columns))


def _lone_returns(data: bytes) -> bool:
    """Are there line ends that only Python's reader knows (a return without a line feed)?"""
    return b"\r" in data and data.count(b"\r") != data.count(b"\r\n")


def _from_records(file: Path, records: Records) -> Table:
    lines = records.lines
    return Table(
        file,
        records.frame.lazy(),
        lambda row: f"line {lines[row]}",
        bad=records.bad,
        notes=records.notes,
        header=tuple(records.frame.columns),
    )


def _refuse_separator(file: Path, data: bytes, separator: str) -> None:
    """A first line of one field that another character separates is a file of that one."""
    first = data[:HEAD].lstrip().split(b"\n", 1)[0].decode("utf-8", "replace")
    counts = {mark: first.count(mark) for mark in SEPARATORS}
    mark = max(counts, key=counts.__getitem__)
    if separator in first or not counts[mark]:
        return
    name = SEPARATORS.get(separator, repr(separator))
    raise DataError(
        f"{file}: the first line has no {name} but {counts[mark]} of {SEPARATORS[mark]}; read it with"
        f" --separator {SEPARATORS[mark]}"
    )


def map_columns(table: Table, columns: Mapping[str, str]) -> Table:
    """The table under weft's names: `columns` maps weft's name -> the file's."""
    named = replace(table, names={})
    named.require(*columns.values())
    taken = {*columns, *columns.values()}
    frame = table.frame.select(
        *(pl.col(theirs).alias(ours) for ours, theirs in columns.items()),
        *(pl.col(c) for c in table.columns() if c not in taken),
    )
    header = table.header or tuple(table.columns())
    return replace(table, frame=frame, names=dict(columns), header=header)
