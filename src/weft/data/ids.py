"""Ids of any type -> text: whole numbers lose their ".0", whatever else stays as it is written."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from weft.data.raw import Table, read_columns

WHOLE = r"^-?\d+(\.0+)?$"
EXACT = 2**53  # larger whole numbers share floats
EDGES = r"^[\s\x{feff}\x{200b}\x{2060}]+|[\s\x{feff}\x{200b}\x{2060}]+$"
SPREADSHEET = r"^\d(\.\d+)?[eE]\+\d+$"


def id_column(column: str, table: Table, *, plain: bool = False) -> tuple[pl.Expr, str]:
    """How to read a column of ids as text, and a note ("" for none).

    Text and whole numbers are kept as they are. Floats that are all whole numbers (pandas makes
    them of ids beside an empty cell) lose their decimals, in text only if every id is one; `plain`
    keeps text as it is. Raises `DataError` for other types and for floats that are not whole.
    """
    dtype = table.columns()[column]
    if dtype in (pl.Float32, pl.Float64):
        return _of_floats(column, table)
    if dtype == pl.String and not plain and _decimal_text(column, table):
        text = pl.col(column).str.replace(r"\.0+$", "")
        return text, _note(column, table)
    if not (dtype in (pl.String, pl.Categorical, pl.Enum) or dtype.is_integer()):
        raise table.error(0, column, f"holds {dtype}; ids are text or whole numbers")
    return pl.col(column).cast(pl.String), ""


def float_ids(file: Path, column: str) -> str:
    """The note on ids that were numbers with decimals."""
    return f"{file}: the ids of column '{column}' are written like 12345.0; they are read as 12345"


def _note(column: str, table: Table) -> str:
    return float_ids(table.file, table.called(column))


def _of_floats(column: str, table: Table) -> tuple[pl.Expr, str]:
    ids = read_columns(table, pl.col(column))[column]
    limit = EXACT if ids.dtype == pl.Float64 else 2**24
    odd = ids.is_not_nan() & ((ids != ids.floor()) | (ids.abs() >= limit))
    if odd.fill_null(False).any():
        row = int(odd.fill_null(False).arg_true()[0])
        why = "is no whole number" if ids[row] != ids[row] // 1 else f"is no float below {limit:,}"
        raise table.error(
            row, column, f"holds {ids.dtype}; ids are text or whole numbers, and {ids[row]!r} {why}"
        )
    number = pl.col(column).fill_nan(None).cast(pl.Int64).cast(pl.String)
    return number, _note(column, table)


def _decimal_text(column: str, table: Table) -> bool:
    """Are all ids whole numbers in text, and some written with decimals?"""
    text = pl.col(column)
    first = read_columns(table, text.filter(text != "").head(1))[column]
    if not len(first) or not first.str.contains(WHOLE).all():
        return False
    some = read_columns(table, text.str.ends_with(".0").any()).item()
    if not some:
        return False
    filled = text.filter(text.is_not_null() & (text != ""))
    return bool(read_columns(table, filled.str.contains(WHOLE).all()).item())


def spreadsheet_note(ids: pl.Series, table: Table, column: str) -> str:
    """A note if ids were written by a spreadsheet that lost their digits (1.23457E+12)."""
    lost = ids.filter(ids.str.contains(SPREADSHEET))
    if not len(lost):
        return ""
    return (
        f"{table.file}: {len(lost):,} ids of column '{table.called(column)}' are written like"
        f" {lost[0]}: a spreadsheet has cut their digits, and different ids may be one now"
    )


def list_note(ids: pl.Series, table: Table) -> str:
    """A note if most ids look like several: "B001 B002", "B001|B002"."""
    several = ids.str.contains(r"\S[ |;,]+\S").sum()
    if not len(ids) or several < 0.5 * len(ids) or table.called("title") == table.called("item_id"):
        return ""
    return (
        f"{table.file}: {several:,} of {len(ids):,} ids of column '{table.called('item_id')}' look like"
        f" several ('{ids[0]}'); lists of items in a cell are read with --list-separator"
    )


def space_note(ids: pl.Series, table: Table, column: str) -> str:
    """A note if ids (each once) differ in the white space around them alone."""
    spaced = ids.filter(ids.str.contains(EDGES))
    if not len(spaced) or len(several := ids.str.replace_all(EDGES, "").unique()) == len(ids):
        return ""
    return (
        f"{table.file}: {len(ids) - len(several):,} of {len(ids):,} ids of column '{table.called(column)}' differ from"
        f" others in white space or invisible characters alone (such as {spaced[0]!r}), and count as others"
    )
