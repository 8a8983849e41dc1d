"""Columns of a table as text, and what is no text."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from weft.errors import DataError

_TEXTS = (pl.String, pl.Categorical, pl.Enum)


def text_column(file: Path, column: str, dtype: pl.DataType) -> pl.Expr:
    """A column as text, null as "", the plain values of a list joined by ", ".

    Titles are text or whole numbers. Raises `DataError` for others, and for values that have no
    text form (structs, bytes, lists of lists).
    """
    inner = dtype.inner if isinstance(dtype, pl.List | pl.Array) else None
    if column == "title" and not (dtype in _TEXTS or dtype == pl.Null or dtype.is_integer()):
        raise DataError(f"{file}: column 'title' holds {dtype}; titles are text")
    if _is_plain(dtype):
        return pl.col(column).cast(pl.String).fill_null("")
    if inner is not None and _is_plain(inner):
        return pl.col(column).cast(pl.List(pl.String)).list.join(", ").fill_null("")
    raise DataError(f"{file}: column '{column}' holds {dtype}, which is no text; leave it out")


def check_ids(file: Path, dtype: pl.DataType) -> None:
    """A `DataError` unless a column of ids holds text or whole numbers."""
    if not (dtype in _TEXTS or dtype.is_integer()):
        raise DataError(f"{file}: column 'item_id' holds {dtype}; ids are text or whole numbers")


def _is_plain(dtype: object) -> bool:
    return isinstance(dtype, pl.DataType) and not (
        dtype.is_nested() or dtype in (pl.Binary, pl.Object, pl.Duration)
    )
