"""What a reader hands over: two tables as they lie in the files, and how to point into them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import polars as pl

from weft.data.source import TimeUnit
from weft.errors import WeftError


def count_rows(row: int) -> str:
    """The place of a row in a file that has rows, not lines: "row 1" is the first."""
    return f"row {row + 1}"


@dataclass(frozen=True, eq=False)
class Table:
    """One file's rows in file order, under weft's column names.

    `names` gives the column's name in the file where that differs from weft's.
    `place` turns a row index (0-based) into words: "row 3", "line 4".
    """

    file: Path
    frame: pl.LazyFrame
    place: Callable[[int], str] = count_rows
    names: dict[str, str] = field(default_factory=dict)

    def columns(self) -> dict[str, pl.DataType]:
        """Column name -> polars data type, in file order."""
        return dict(self.frame.collect_schema())

    def called(self, column: str) -> str:
        """The column's name in the file."""
        return self.names.get(column, column)

    def error(self, row: int, column: str, what: str) -> WeftError:
        """The error to raise for one cell; `what` completes "column 'x' …"."""
        return WeftError(f"{self.file}, {self.place(row)}: column '{self.called(column)}' {what}")

    def require(self, *columns: str) -> None:
        """Raise `WeftError` for the first of `columns` that is not there."""
        have = self.columns()
        for column in columns:
            if column not in have:
                there = ", ".join(f"'{self.called(name)}'" for name in have) or "none"
                raise WeftError(
                    f"{self.file}: there is no column '{self.called(column)}' (its columns: {there})"
                )


@dataclass(frozen=True, eq=False)
class RawLog:
    """A reader's answer.

    `interactions` has `user_id`, `item_id`, `timestamp` (not for `time_unit` "order") and
    perhaps `rating`; `items` has `item_id`, perhaps `title`, and further text columns. Without
    `items`, the catalogue is what the interactions say: further text columns there are the
    item's. `repeated_items` "first" is for formats whose official files repeat catalogue rows.
    `notes` are sentences for the person who reads the report.
    """

    interactions: Table
    items: Table | None
    time_unit: TimeUnit = "s"
    repeated_items: Literal["error", "first"] = "error"
    notes: tuple[str, ...] = ()


def broken(file: Path, error: BaseException) -> WeftError:
    """The error for a file whose content polars can't read (damaged, truncated)."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return WeftError(f"{file} is not a whole {file.suffix.lstrip('.')} file: {reason}")
