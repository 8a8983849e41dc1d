"""A log's rows as numbers, and what is wrong with each of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from weft.data.faults import Faults, Mask
from weft.data.ids import id_column, space_note
from weft.data.raw import RawLog, Table, read_columns
from weft.data.row_checks import add_row_faults
from weft.data.source import TimeUnit, Unlisted
from weft.data.time_checks import likely_unit
from weft.data.times import DAY_ZERO, ORDER_INDEX_LIMIT, YEAR_10000, Times, read_times
from weft.data.written_times import format_hint
from weft.errors import DataError

Cells = pl.DataFrame


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a log, in file order."""

    cells: Cells  # user_id: Categorical; item_id: catalogue row or null; timestamp, rating
    times: Times
    below: Mask  # [n] rated below the minimum
    faults: Faults
    notes: tuple[str, ...]


def read_rows(
    raw: RawLog, item_ids: pl.Series, minimum_rating: float | None, *, checked: bool
) -> Rows:
    """Read the log. Raises `DataError` only for what is wrong with the log as a whole."""
    log = raw.interactions
    cells, notes = _read_cells(log, item_ids, minimum_rating is not None)
    if cells.is_empty():
        raise DataError(f"{log.file}: there is no interaction in it")
    faults = Faults(log, cells.height)
    users = cells["user_id"]
    faults.add((users.is_null() | (users.cast(pl.String) == "")).to_numpy(), "user_id", "is empty")
    if checked:
        add_row_faults(faults, users, cells["item_id"], item_ids)
        notes += (space_note(users.unique().cast(pl.String).drop_nulls(), log, "user_id"),)
    if raw.time_unit == "order":
        every = np.ones(cells.height, dtype=bool)
        times = Times(np.arange(cells.height, dtype=np.int64), None, every, "order")
    else:
        column = cells["timestamp"]
        times = read_times(column, raw.time_unit, raw.time_format, log, checked=checked)
        if checked:
            _refuse_other_unit(column, times, log)
        _add_time_faults(faults, column, times)
    below = _below(cells, minimum_rating, faults)
    return Rows(cells, times, below, faults, tuple(one for one in notes if one))


def _read_cells(
    log: Table, item_ids: pl.Series, with_rating: bool
) -> tuple[Cells, tuple[str, ...]]:
    users = pl.Categorical(pl.Categories.random())  # its own string table, freed with the column
    user, note = id_column("user_id", log)
    columns = [
        user.cast(users).alias("user_id"),
        _item_text(log, item_ids)
        .cast(pl.Enum(item_ids), strict=False)
        .to_physical()
        .alias("item_id"),
    ]
    columns += [pl.col(c) for c in ("timestamp",) if c in log.columns()]
    columns += [pl.col("rating")] if with_rating else []
    return read_columns(log, *columns), (note,)


def _item_text(log: Table, item_ids: pl.Series) -> pl.Expr:
    """The log's item ids as text; 12345.0 stays so if the catalogue has it so."""
    plain = bool(item_ids.str.ends_with(".0").any())
    return id_column("item_id", log, plain=plain)[0]


def number_users(users: pl.Series) -> tuple[NDArray[np.int32], pl.Series]:
    """[n] int32 user rows numbered by first appearance, and the ids (one null for all nulls)."""
    physical = users.to_physical()
    largest = physical.max()
    codes = physical.fill_null(0 if largest is None else int(largest) + 1).to_numpy()  # type: ignore[arg-type]
    first = np.full(int(codes.max()) + 1, -1, dtype=np.int64)
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)  # the last write wins: the first row
    used = np.flatnonzero(first >= 0)
    used = used[np.argsort(first[used])]
    rank = np.empty(len(first), dtype=np.int32)
    rank[used] = np.arange(len(used), dtype=np.int32)
    return rank[codes], users.gather(first[used]).cast(pl.String).alias("user_id")


def _refuse_other_unit(column: pl.Series, times: Times, log: Table) -> None:
    """Raise `DataError` if the times as a whole can't be what they were read as."""
    seconds = times.seconds[times.readable]
    if not len(seconds):
        return
    beyond = times.readable & (times.seconds >= YEAR_10000)
    if beyond.sum() > len(seconds) / 2:
        row = int(np.argmax(beyond))
        raise log.error(row, "timestamp", f"= {column[row]!r} {_beyond(times, row)}")
    filled = column.is_not_null().to_numpy()
    odd = filled & ~times.readable
    if filled.sum() >= ENOUGH and odd.sum() > filled.sum() / 2:
        row = int(np.argmax(odd))
        form = f"of the format '{times.unit}'" if "%" in times.unit else f"in {times.unit}"
        raise log.error(
            row, "timestamp", f"= {column[row]!r} is not a time {form}, like most others there"
            f"{format_hint(column.filter(pl.Series(odd)))}",
        )  # fmt: skip
    if (seconds >= ORDER_INDEX_LIMIT).any():
        return
    row = int(np.argmax(times.readable))
    if times.unit != "s":
        # seconds divided by 1,000 would pass for an order index from here on
        unit = {"dates": "what its dates were made from"}.get(times.unit, times.unit)
        raise log.error(
            row, "timestamp", f"= {column[row]!r} lies in early 1970 if it counts {unit}, like all"
            " other times there; is the time unit another?",
        )  # fmt: skip
    if times.fraction is not None and times.fraction.any() and seconds.min() >= 10_000:
        raise log.error(
            row, "timestamp", f"= {column[row]!r} lies in early 1970, like all other times there; is"
            " it a number of days (--time-unit days), or of Excel's days (--time-unit excel)?",
        )  # fmt: skip


def _beyond(times: Times, row: int) -> str:
    unit = times.unit
    words = f"is beyond the year 9999 if it counts {unit}; is the time unit another?"
    if unit == "s" and (likely := likely_unit(int(times.seconds[row]))):
        return f"{words} (--time-unit {likely})"
    return words


def _add_time_faults(faults: Faults, column: pl.Series, times: Times) -> None:
    hint = ""
    odd = column.filter(pl.Series(~times.readable))

    def unreadable(row: int) -> str:
        nonlocal hint
        value = column[row]
        if value is None or (isinstance(value, str) and not value.strip()):
            return "is empty"
        if not hint and isinstance(value, str) and times.unit in (*PER_SECOND_UNITS, *DAY_ZERO):
            hint = format_hint(odd)
        expected = (
            " (a date like 2014-07-23 or 2014-07-23T10:15:00Z)" if times.unit == "iso" else ""
        )
        if not hint and times.unit == "iso":
            hint = format_hint(odd)
            if "--time-unit iso" in hint:  # as they are read already
                hint = "; a zone is written Z, UTC or +02:00"
        if "%" in times.unit:
            expected = f" of the format '{times.unit}'"
        return f"= {value!r} is not a time{expected}{hint}"

    faults.add(~times.readable, "timestamp", unreadable)
    faults.add(
        times.seconds < 0, "timestamp", lambda row: f"= {column[row]!r} is a time before 1970"
    )
    faults.add(
        times.seconds >= YEAR_10000,
        "timestamp",
        lambda row: f"= {column[row]!r} {_beyond(times, row)}",
    )


ENOUGH = 20  # times, to judge the unit or the format by most of them
PER_SECOND_UNITS: tuple[TimeUnit, ...] = ("s", "ms", "us", "ns")


def _below(cells: Cells, minimum: float | None, faults: Faults) -> Mask:
    """[n] rated below the minimum; ratings that are no numbers are faults."""
    if minimum is None:
        none: Mask = np.zeros(cells.height, dtype=bool)
        return none
    ratings = cells["rating"]
    if ratings.dtype in (pl.Categorical, pl.Enum):
        ratings = ratings.cast(pl.String)
    if not (ratings.dtype == pl.String or ratings.dtype.is_numeric()):
        raise faults.table.error(0, "rating", f"holds {ratings.dtype}, not ratings")
    text = ratings.str.strip_chars() if ratings.dtype == pl.String else ratings
    numbers = text.cast(pl.Float64, strict=False)
    bad = (numbers.is_null() | numbers.is_nan()).fill_null(True).to_numpy()

    def words(row: int) -> str:
        value = ratings[row]
        if value is None or value == "":
            return "is empty, and --minimum-rating needs it"
        comma = isinstance(value, str) and "," in value
        return f"= {value!r} is not a number" + (" (write 3.5, not 3,5)" if comma else "")

    faults.add(bad, "rating", words)
    low: Mask = (numbers.fill_nan(None) < minimum).fill_null(False).to_numpy()
    return low


@dataclass(frozen=True, eq=False)
class Placed:
    """The rows' catalogue rows after what the catalogue lacks is settled."""

    item: NDArray[np.int32]  # [n] item indices, -1: none
    items: pl.DataFrame  # the catalogue, with what was added
    lost: Mask  # [n] of items that the catalogue lacks
    dropped: Mask  # [n] of these, left out
    added: int  # items


def place_items(rows: Rows, items: pl.DataFrame, unlisted: Unlisted, settled: Mask) -> Placed:
    """Settle the interactions whose item has no catalogue row; empty ids become faults.

    `settled` [n]: rows that something else leaves out, or that are bad already.
    Raises `DataError` for the first other row if `unlisted` is "error".
    """
    log, faults = rows.faults.table, rows.faults
    item = rows.cells["item_id"].cast(pl.Int32).fill_null(-1).to_numpy().copy()
    none: Mask = np.zeros(len(item), dtype=bool)
    lost = np.flatnonzero(item < 0)
    if not len(lost):
        return Placed(item, items, none, none, 0)
    ids = read_columns(log, _item_text(log, items["item_id"]).alias("item_id"))["item_id"].gather(
        lost
    )
    empty = (ids.is_null() | (ids == "")).fill_null(True)
    nameless = none.copy()
    nameless[lost[empty.to_numpy()]] = True
    faults.add(nameless, "item_id", "is empty")
    lost, ids = lost[~empty.to_numpy()], ids.filter(~empty)
    unknown = none.copy()
    unknown[lost] = True
    if unlisted == "error":
        _refuse_unlisted(lost, ids, items["item_id"], log, settled)
        return Placed(item, items, unknown, none, 0)
    if unlisted == "drop" or not len(lost):
        return Placed(item, items, unknown, unknown if unlisted == "drop" else none, 0)
    fine = ~faults.mask()[lost]
    lost, ids = lost[fine], ids.filter(pl.Series(fine))
    new = ids.unique(maintain_order=True)
    item[lost] = ids.cast(pl.Enum(new)).to_physical().cast(pl.Int32).to_numpy() + items.height
    blank = {c: [""] * len(new) for c in items.columns if c != "item_id"}
    more = pl.DataFrame({"item_id": new, **blank}).select(items.columns)
    return Placed(item, pl.concat([items, more]), unknown, none, len(new))


def _refuse_unlisted(
    lost: NDArray[np.int64], ids: pl.Series, items: pl.Series, log: Table, settled: Mask
) -> None:
    wanted = ~settled[lost]
    if not wanted.any():
        return
    lost, ids = lost[wanted], ids.filter(pl.Series(wanted))
    hint = _other_spelling(ids[0], items)
    users = read_columns(log, pl.col("user_id").cast(pl.String).head(1_000))["user_id"]
    if not hint and len(users) and users.is_in(items.to_list()).mean() == 1:
        hint = (
            f"; its users ({users[0]!r}, …) are in the catalogue: are columns"
            f" '{log.called('user_id')}' and '{log.called('item_id')}' swapped?"
        )
    if not hint and any(mark in ids[0] for mark in " |;,"):
        hint = "; a list of items in one cell is read with --list-separator"
    raise log.error(
        int(lost[0]),
        "item_id",
        f"= {ids[0]!r} has no row in the catalogue ({len(lost):,} interactions of"
        f" {ids.n_unique():,} items have none; unlisted: add or drop them){hint}",
    )


def _other_spelling(wanted: str, items: pl.Series) -> str:
    """A hint if the catalogue writes the id otherwise: with zeros, spaces, in another case."""

    def plain(column: pl.Series) -> pl.Series:
        text = column.str.strip_chars().str.to_lowercase().str.replace(r"\.0+$", "")
        return text.str.strip_chars_start("0")

    same = items.filter(plain(items) == plain(pl.Series([wanted]))[0])
    if not len(same):
        return ""
    return f"; the catalogue writes it {same[0]!r}: write the ids of both files alike"
