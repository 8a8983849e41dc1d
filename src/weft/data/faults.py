"""Rows that can't be read: collected first, then refused or dropped, whichever was asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from weft.data.raw import NAMED, BadRows, Table
from weft.data.source import Faulty
from weft.errors import DataError

Mask = NDArray[np.bool_]


@dataclass
class Faults:
    """The faults of a table's rows: each a mask, a column, and the words for a row of it."""

    table: Table
    rows: int
    reports: list[tuple[Mask, str, Callable[[int], str]]] = field(default_factory=list)

    def add(self, mask: Mask, column: str, what: str | Callable[[int], str]) -> None:
        """`mask` [rows]; `what` completes "column 'x' …"."""
        if mask.any():
            words = what if callable(what) else (lambda _, text=what: text)
            self.reports.append((mask, column, words))

    def mask(self) -> Mask:
        """[rows]: has the row any fault?"""
        out: Mask = np.zeros(self.rows, dtype=bool)
        for mask, _, _ in self.reports:
            out |= mask
        return out

    def sentences(self, bad: Mask) -> Iterator[str]:
        """One sentence for each row of `bad`, in row order: its first fault."""
        for row in np.flatnonzero(bad).tolist():
            column, words = next((c, words) for mask, c, words in self.reports if mask[row])
            yield self.table.sentence(row, column, words(row))

    def settle(self, bad: Mask, bad_rows: Faulty) -> BadRows:
        """Raise `DataError` for the first row of `bad` unless they are to be dropped."""
        count = int(bad.sum())
        if not count:
            return BadRows()
        sentences = self.sentences(bad)
        if bad_rows == "fail":
            raise refusal(next(sentences), count)
        if count == self.rows:
            raise DataError(f"{next(sentences)}; all rows are bad, so none is left")
        return BadRows(
            count, tuple(sentence for sentence, _ in zip(sentences, range(NAMED), strict=False))
        )


def refusal(sentence: str, count: int | None = None) -> DataError:
    """The error for a bad row where bad rows aren't dropped."""
    rows = "such rows" if count is None else "this row" if count == 1 else f"the {count:,} bad rows"
    return DataError(f"{sentence}; --bad-rows drop leaves {rows} out")
