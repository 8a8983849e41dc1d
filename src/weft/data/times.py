"""Times of any form -> whole Unix seconds, and what is cut off, by which ties are ordered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from weft.data.raw import Table
from weft.data.source import TimeUnit
from weft.data.time_checks import refuse_calendar_numbers, refuse_cut_numbers
from weft.data.written_times import is_iso, read_format, read_iso

IntArray = NDArray[np.int64]
PER_SECOND: dict[TimeUnit, int] = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
DAY_ZERO: dict[TimeUnit, int] = {"days": 0, "excel": 25_569}  # of 1970-01-01
ATTO = 10**18  # a second in the unit of `Times.fraction`: int64 holds it, for any unit's decimals
ORDER_INDEX_LIMIT = 10_000_000  # larger times are Unix seconds: this one is in April 1970
YEAR_10000 = 253_402_300_800  # Unix seconds; beyond it a number of "seconds" is some other unit


@dataclass(frozen=True, eq=False)
class Times:
    """Times of all rows of a log, in row order.

    A time is `seconds + fraction / 1e18`; `fraction` None is 0 everywhere. Where `readable` is
    false the cell holds no time, and `seconds` is 0. `unit` is the unit that they were read in.
    """

    seconds: IntArray  # [n] Unix seconds, perhaps negative
    fraction: IntArray | None  # [n] 0 <= fraction < 1e18
    readable: NDArray[np.bool_]  # [n]
    unit: TimeUnit | str


def read_times(
    column: pl.Series,
    unit: TimeUnit | None,
    time_format: str | None,
    table: Table,
    *,
    checked: bool = True,
) -> Times:
    """The times of a column of integers, floats, dates or text; nothing is rounded.

    `unit` None: seconds, or ISO 8601 if the first time is written so. Raises `DataError` if the
    column's type holds no times, or (if `checked`) if its numbers are a calendar's (20140723).
    """
    if column.dtype in (pl.Categorical, pl.Enum) or isinstance(column.dtype, pl.Decimal):
        column = column.cast(pl.String)
    if isinstance(column.dtype, pl.Datetime):
        per_second = PER_SECOND[column.dtype.time_unit]
        return _from_whole(column.to_physical(), per_second, "dates")
    if isinstance(column.dtype, pl.Date):
        return _from_whole(column.to_physical().cast(pl.Int64) * 86_400, 1, "dates")
    if not (column.dtype == pl.String or column.dtype.is_numeric()):
        raise table.error(0, "timestamp", f"holds {column.dtype}, not times")
    if time_format is not None:
        return _written(*read_format(column.cast(pl.String), time_format), time_format)
    if unit == "iso" or (unit is None and is_iso(column)):
        return _written(*read_iso(column.cast(pl.String)), "iso")
    return _from_number(column, unit or "s", table if checked else None)


def _from_number(column: pl.Series, unit: TimeUnit, table: Table | None) -> Times:
    if table is not None:
        refuse_cut_numbers(column, PER_SECOND.get(unit, 1 / 86_400), table)
    if column.dtype == pl.String:
        column = column.str.strip_chars()
        whole = column.cast(pl.Int64, strict=False)
        if whole.null_count():
            whole = column.str.replace(r"\.0*$", "").cast(pl.Int64, strict=False)
    elif column.dtype.is_integer():
        whole = column.cast(pl.Int64, strict=False)
        column = whole
    else:
        whole = _whole_floats(column)
    if table is not None:
        refuse_calendar_numbers(whole, unit, table)
    if unit in DAY_ZERO:
        return _from_days(column.cast(pl.Float64, strict=False), unit)
    if whole.null_count() == column.null_count():
        return _from_whole(whole, PER_SECOND[unit], unit)
    if column.dtype == pl.String:
        return _from_decimals(column, whole, unit)
    return _from_floats(column.cast(pl.Float64), unit)


def _from_whole(whole: pl.Series, per_second: int, unit: TimeUnit | str) -> Times:
    """Of integers; a null is no time."""
    readable = whole.is_not_null().to_numpy()
    numbers = whole.cast(pl.Int64).fill_null(0).to_numpy()
    if per_second == 1:
        return Times(numbers, None, readable, unit)
    seconds, rest = np.divmod(numbers, per_second)
    return Times(seconds, rest * (ATTO // per_second) if rest.any() else None, readable, unit)


def _from_decimals(text: pl.Series, whole: pl.Series, unit: TimeUnit) -> Times:
    """Of text with decimals (kept to 1e-18 s), or with an exponent."""
    exact = _from_whole(whole, PER_SECOND[unit], unit)
    parts = text.str.extract_groups(r"^(-?\d+)\.(\d*)$").struct.unnest()
    before = parts.to_series(0).cast(pl.Int64, strict=False)
    decimal = _from_whole(before, PER_SECOND[unit], unit)
    places = len(str(ATTO // PER_SECOND[unit])) - 1
    digits = parts.to_series(1).fill_null("").str.pad_end(places, "0").str.slice(0, places)
    more = digits.cast(pl.Int64).to_numpy()
    fraction = more if decimal.fraction is None else decimal.fraction + more
    negative = text.str.starts_with("-").fill_null(False).to_numpy()
    seconds = np.where(negative & (more > 0), decimal.seconds - 1, decimal.seconds)
    floats = _from_floats(text.cast(pl.Float64, strict=False), unit)
    zeros = np.zeros(len(text), dtype=np.int64)

    def pick(whole: IntArray | None, decimals: IntArray | None, other: IntArray | None) -> IntArray:
        rest = np.where(decimal.readable, _or(decimals, zeros), _or(other, zeros))
        return np.where(exact.readable, _or(whole, zeros), rest)

    return Times(
        pick(exact.seconds, seconds, floats.seconds),
        pick(exact.fraction, fraction, floats.fraction),
        exact.readable | decimal.readable | floats.readable,
        unit,
    )


def _or(values: IntArray | None, zeros: IntArray) -> IntArray:
    return zeros if values is None else values


def _whole_floats(column: pl.Series) -> pl.Series:
    """Int64 where a float is a whole number, else null."""
    numbers = column.cast(pl.Float64).to_numpy()
    with np.errstate(invalid="ignore"):
        whole = np.isfinite(numbers) & (np.abs(numbers) < 9e18) & (np.floor(numbers) == numbers)
    out = pl.Series(np.where(whole, numbers, 0).astype(np.int64))
    return out.set(pl.Series(~whole), None)


def _from_floats(column: pl.Series, unit: TimeUnit) -> Times:
    numbers = column.fill_null(float("nan")).to_numpy()
    with np.errstate(invalid="ignore"):
        readable = np.isfinite(numbers) & (np.abs(numbers) < 9e18)
    seconds, rest = np.divmod(np.where(readable, numbers, 0.0), PER_SECOND[unit])
    fraction = np.minimum((rest * (ATTO // PER_SECOND[unit])).astype(np.int64), ATTO - 1)
    return Times(seconds.astype(np.int64), fraction, readable, unit)


def _from_days(days: pl.Series, unit: TimeUnit) -> Times:
    """Days and their fractions; a float of a day is good to a few microseconds."""
    seconds = (days.fill_null(float("nan")) - DAY_ZERO[unit]) * 86_400
    return _from_floats(seconds.round(5), "s")


def _written(seconds: pl.Series, fraction: pl.Series | None, unit: str) -> Times:
    readable = seconds.is_not_null().to_numpy()
    rest = None if fraction is None else fraction.fill_null(0).to_numpy()
    return Times(seconds.fill_null(0).to_numpy(), rest, readable, unit)
