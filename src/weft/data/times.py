"""Times of any written form -> whole Unix seconds."""

from __future__ import annotations

import numpy as np
import polars as pl

from weft.data.raw import Table
from weft.data.source import TimeUnit

PER_SECOND: dict[TimeUnit, int] = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
ORDER_INDEX_LIMIT = 10_000_000  # larger times are Unix seconds: this one is in April 1970
YEAR_10000 = 253_402_300_800  # Unix seconds; beyond it a number of "seconds" is some other unit


def to_seconds(column: pl.Series, unit: TimeUnit, table: Table) -> pl.Series:
    """[n] Int64 Unix seconds, in row order, fractions cut off.

    `column` holds integers, floats, dates or text. Raises `WeftError` for the first row whose
    time is missing, NaN, infinite, negative, unreadable, or too large to be seconds; and if a unit other
    than seconds puts every time into early 1970.
    """
    if isinstance(column.dtype, pl.Datetime | pl.Date):
        out = column.cast(pl.Datetime("us")).dt.epoch("s")
    elif unit == "iso":
        out = _from_iso(column.cast(pl.String))
    else:
        out = _from_number(column, PER_SECOND[unit], table)
    _refuse(column, out.is_null(), table, "is not a time" + _expected(unit))
    _refuse(column, out < 0, table, "is a time before 1970")
    _refuse(
        column,
        out >= YEAR_10000,
        table,
        f"is beyond the year 9999 if it counts {unit}; is the time unit another?",
    )
    if unit != "s" and len(out) and not (out >= ORDER_INDEX_LIMIT).any():
        # seconds divided by 1,000 would pass for an order index from here on
        raise table.error(
            0, "timestamp", f"= {column[0]!r} lies in early 1970 if it counts {unit}, like all"
            " other times there; is the time unit another?",
        )  # fmt: skip
    return out


def _from_number(column: pl.Series, per_second: int, table: Table) -> pl.Series:
    if column.dtype == pl.String:
        whole = column.str.strip_chars().cast(pl.Int64, strict=False)
        if whole.null_count() == 0:
            return whole // per_second
        column = column.str.strip_chars().cast(pl.Float64, strict=False)
    if column.dtype.is_integer():
        wide = column.cast(pl.Int64, strict=False)
        return wide // per_second
    if not column.dtype.is_numeric():
        raise table.error(0, "timestamp", f"holds {column.dtype}, not times")
    numbers = column.cast(pl.Float64)
    sound = numbers.is_finite() & (numbers.abs() < 9e18)
    cut = (numbers / per_second).floor()
    return pl.select(pl.when(sound).then(cut).otherwise(None).cast(pl.Int64)).to_series()


def _from_iso(column: pl.Series) -> pl.Series:
    """Dates and date-times of ISO 8601; a time without a zone is UTC."""
    text = column.str.strip_chars()
    zoned = text.str.to_datetime("%+", strict=False, time_unit="us", time_zone="UTC")
    plain = text.str.replace("T", " ", literal=True)
    long = plain.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", strict=False, time_unit="us")
    short = plain.str.to_datetime("%Y-%m-%d %H:%M", strict=False, time_unit="us")
    day = plain.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us"))
    naive = pl.select(pl.coalesce(long, short, day)).to_series()
    return pl.select(pl.coalesce(zoned.dt.epoch("s"), naive.dt.epoch("s"))).to_series()


def _expected(unit: TimeUnit) -> str:
    return " (a date like 2014-07-23 or 2014-07-23T10:15:00Z)" if unit == "iso" else ""


def _refuse(column: pl.Series, bad: pl.Series, table: Table, what: str) -> None:
    mask = bad.fill_null(True).to_numpy()
    if mask.any():
        row = int(np.argmax(mask))
        value = column[row]
        said = "is empty" if value is None or value == "" else f"= {value!r} {what}"
        raise table.error(row, "timestamp", said)
