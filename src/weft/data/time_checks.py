"""Numbers and times that can't mean what they are read as: refused, or noted."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from weft.data.raw import Table
from weft.data.source import TimeUnit

FORMS = {
    4: "%Y",
    6: "%Y%m",
    8: "%Y%m%d",
    10: "%Y%m%d%H",
    12: "%Y%m%d%H%M",
    14: "%Y%m%d%H%M%S",
    17: "%Y%m%d%H%M%S%f",
}
SHARE = 0.95  # of the numbers that are dates: the rest may be broken rows
BEFORE_THE_WEB = int(datetime(1990, 1, 1, tzinfo=UTC).timestamp())
A_DAY = 86_400
TICKS_END = 660_000_000  # .NET's ticks of our days would be times before it in ns
EXPONENT = r"^\s*[+-]?\d+(?:\.(\d*))?[eE]\+?(\d+)\s*$"
UNITS: tuple[tuple[TimeUnit, int], ...] = (("ms", 10**3), ("us", 10**6), ("ns", 10**9))


def refuse_calendar_numbers(numbers: pl.Series, unit: TimeUnit, table: Table) -> None:
    """Raise `DataError` if whole numbers (Int64, null where there is none) spell dates."""
    some = numbers.head(1_000).drop_nulls().to_numpy()
    some = some[some != 0]
    if not len(some):
        return
    digits = len(str(abs(int(np.median(some)))))
    if digits not in FORMS or _share(some, digits) < SHARE:
        return
    every = numbers.drop_nulls().to_numpy()
    if _share(every[every != 0], digits) < SHARE:
        return
    row = int(np.argmax((numbers.is_not_null() & (numbers != 0)).fill_null(False).to_numpy()))
    raise table.error(
        row,
        "timestamp",
        f"= {numbers[row]} is a date in digits, like the others there, and no count of {unit}"
        f" since 1970; read it with --time-format '{FORMS[digits]}'",
    )


def refuse_cut_numbers(column: pl.Series, per_second: float, table: Table) -> None:
    """Raise `DataError` for times that were written with too few digits for whole seconds.

    1.38853E+09, as spreadsheets and %g write them, and floats of 32 bits. `per_second`: the unit's
    numbers in a second. Whole days are no such times, however they are written.
    """
    if column.dtype == pl.Float32:
        step, what = 2.0**24, "a float of 32 bits, which keeps 7 digits"
        numbers = column.cast(pl.Float64)
        cut = numbers.abs() >= step * max(per_second, 1.0)
    elif column.dtype == pl.String:
        parts = column.str.extract_groups(EXPONENT).struct.unnest()
        parts.columns = ["decimals", "exponent"]
        if parts["exponent"].null_count() == len(column):
            return
        places = parts["decimals"].fill_null("").str.len_chars().cast(pl.Int64)
        coarse = parts["exponent"].cast(pl.Int64, strict=False) - places
        if coarse.min() is None or 10.0 ** min(int(coarse.min()), 30) <= per_second:  # type: ignore[arg-type]
            return
        numbers, what = column.cast(pl.Float64, strict=False), "written with too few digits"
        cut = coarse.is_not_null()
    else:
        return
    cut &= (numbers % (A_DAY * per_second) != 0).fill_null(False)
    if not cut.fill_null(False).any():
        return
    row = int(cut.fill_null(False).arg_true()[0])
    raise table.error(
        row,
        "timestamp",
        f"= {column[row]} is {what}: times that differ by seconds are one there, and the order is"
        " lost; write the file again with whole numbers, or, if its rows are in order, read it with"
        " --time-unit order",
    )


def _share(numbers: NDArray[np.int64], digits: int) -> float:
    """The share of the numbers that are valid dates of so many digits, 1900 to 2100."""
    right = (numbers >= 10 ** (digits - 1)) & (numbers < 10**digits)
    rest = numbers if digits < 17 else numbers // 1_000
    left = min(digits, 14)
    for name, high, low in (
        ("second", 14, 12),
        ("minute", 12, 10),
        ("hour", 10, 8),
        ("day", 8, 6),
        ("month", 6, 4),
    ):
        if left < high:
            continue
        left, part, rest = low, rest % 100, rest // 100
        least, most = {"day": (1, 31), "month": (1, 12), "hour": (0, 23)}.get(name, (0, 59))
        right &= (part >= least) & (part <= most)
    right &= (rest >= 1900) & (rest <= 2100)
    return float(right.mean()) if len(right) else 0.0


def likely_unit(seconds: int, now: float | None = None) -> str:
    """The option to name for numbers that are too large to be what they were read as."""
    now = datetime.now(UTC).timestamp() if now is None else now
    for unit, factor in UNITS:
        since = BEFORE_THE_WEB if unit != "ns" else TICKS_END
        if since <= seconds // factor <= now + A_DAY:
            return unit
    return ""


def odd_times(
    seconds: NDArray[np.int64], place: Callable[[int], str], now: float | None = None
) -> list[str]:
    """Sentences on times before the web or in the future; `place(i)` names the i-th time's row."""
    now = datetime.now(UTC).timestamp() if now is None else now
    notes = []
    for wrong, what in (
        (seconds < BEFORE_THE_WEB, "before 1990"),
        (seconds > now + A_DAY, "in the future"),
    ):
        if (count := int(wrong.sum())) > 0:
            at = int(np.argmax(wrong))
            date = datetime.fromtimestamp(int(seconds[at]), UTC).date()
            notes.append(
                f"{count:,} of {len(seconds):,} times lie {what} (the first: {place(at)}, {date});"
                " is the time unit another, or a column?"
            )
    step = int(np.gcd.reduce(seconds))
    if (
        len(seconds) > 1
        and step
        and step % 10_000 == 0
        and step % A_DAY
        and seconds.min() < seconds.max()
    ):
        notes.append(
            f"all times are whole multiples of {step:,} s: were their last digits cut where the file was"
            " written?"
        )
    return notes


def order_index(seconds: NDArray[np.int64], limit: int) -> str:
    """A note on times that are too small to be any."""
    low, high = int(seconds.min()), int(seconds.max())
    note = f"all times are below {limit:,}: they are kept as an order of rows, not as times"
    if low >= 10_000 and high <= 30_000:
        note += " (days since 1970 are read with --time-unit days)"
    elif low > 30_000 and high <= 80_000:
        note += " (dates as Excel counts them are read with --time-unit excel)"
    return note
