"""What a reader hands over: two tables as they lie in the files, and how to point into them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import polars as pl

from weft.data.column_names import likely_column
from weft.data.source import TimeUnit
from weft.errors import DataError

NAMED = 3  # bad rows that a message names


def count_rows(row: int) -> str:
    """The place of a row in a file that has rows, not lines: "row 1" is the first."""
    return f"row {row + 1}"


@dataclass(frozen=True)
class BadRows:
    """Rows that can't be read and were left out: how many, and the first three in words."""

    count: int = 0
    first: tuple[str, ...] = ()

    def __add__(self, other: BadRows) -> BadRows:
        return BadRows(self.count + other.count, (*self.first, *other.first)[:NAMED])

    def and_one(self, sentence: str) -> BadRows:
        """These and one more."""
        return self + BadRows(1, (sentence,))


NO_BAD_ROWS = BadRows()


@dataclass(frozen=True, eq=False)
class Table:
    """One file's rows in file order, under weft's column names.

    `names` gives the column's name in the file where that differs from weft's.
    `place` turns a row index (0-based) into words: "row 3", "line 4". `bad` are rows that are
    not in `frame` because the reader could make nothing of them; `header` are the names of all
    columns in the file, also of those that aren't in `frame`; `notes` are sentences for the person
    who reads the report.
    """

    file: Path
    frame: pl.LazyFrame
    place: Callable[[int], str] = count_rows
    names: dict[str, str] = field(default_factory=dict)
    bad: BadRows = NO_BAD_ROWS
    header: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def columns(self) -> dict[str, pl.DataType]:
        """Column name -> polars data type, in file order."""
        return dict(self.frame.collect_schema())

    def called(self, column: str) -> str:
        """The column's name in the file."""
        return self.names.get(column, column)

    def sentence(self, row: int, column: str, what: str) -> str:
        """What is wrong with one cell; `what` completes "column 'x' …"."""
        return f"{self.file}, {self.place(row)}: column '{self.called(column)}' {what}"

    def error(self, row: int, column: str, what: str) -> DataError:
        """The error to raise for one cell; `what` completes "column 'x' …"."""
        return DataError(self.sentence(row, column, what))

    def require(self, *columns: str, option: str = "--column") -> None:
        """Raise `DataError` for the first of `columns` that is not there; `option` would name it."""
        have = self.columns()
        for column in columns:
            if column not in have:
                there = ", ".join(f"'{self.called(name)}'" for name in have) or "none"
                remedy = ""
                if column == "timestamp" and column not in self.names:
                    meant = likely_column(column, have)
                    remedy = f"; name it: --column timestamp={meant}" if meant else ""
                    remedy += "; rows that are in order already need no times: --time-unit order"
                elif column in ("user_id", "item_id") and column not in self.names:
                    meant = likely_column(column, have)
                    remedy = f"; name it: {option} {column}={meant or 'NAME'}"
                raise DataError(
                    f"{self.file}: there is no column '{self.called(column)}'"
                    f" (its columns: {there}){remedy}"
                )


@dataclass(frozen=True, eq=False)
class RawLog:
    """A reader's answer.

    `interactions` has `user_id`, `item_id`, `timestamp` (not for `time_unit` "order") and
    perhaps `rating`; `items` has `item_id`, perhaps `title`, and further text columns. Without
    `items`, the catalogue is what the interactions say: further text columns there are the
    item's. `time_unit` None: seconds, or ISO 8601 where the times are written so. `time_format`
    (see `written_times`) takes its place. `repeated_items` "first" is for formats whose official
    files repeat catalogue rows. `notes` are sentences for the person who reads the report.
    """

    interactions: Table
    items: Table | None
    time_unit: TimeUnit | None = "s"
    repeated_items: Literal["error", "first"] = "error"
    notes: tuple[str, ...] = ()
    time_format: str | None = None


def broken(file: Path, error: BaseException) -> DataError:
    """The error for a file whose content polars can't read (damaged, truncated)."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return DataError(f"{file} is not a whole {file.suffix.lstrip('.')} file: {reason}")


def read_columns(table: Table, *columns: pl.Expr) -> pl.DataFrame:
    """These columns of all rows. Raises `DataError` if the file is damaged."""
    try:
        return table.frame.select(*columns).collect()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise broken(table.file, error) from None
