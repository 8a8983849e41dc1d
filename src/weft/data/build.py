"""A reader's two tables -> a `Domain`: every id becomes a number once, here, vectorised."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from weft.data.build_items import build_items
from weft.data.build_rows import Placed, Rows, number_users, place_items, read_rows
from weft.data.domain import Catalogue, Domain, Sequences
from weft.data.faults import Mask
from weft.data.filters import Filters, item_mask, keep_items
from weft.data.raw import BadRows, RawLog, Table
from weft.data.source import Faulty, Unlisted
from weft.data.time_checks import odd_times, order_index
from weft.data.times import ORDER_INDEX_LIMIT, Times
from weft.errors import DataError


@dataclass(frozen=True)
class Left:
    """What building left out or added, in interactions and items."""

    below_rating: int = 0  # interactions under the minimum rating
    unlisted_dropped: int = 0  # interactions of items without a catalogue row
    unlisted_added: int = 0  # items given a catalogue row without text
    repeated_items: int = 0  # later catalogue rows of an item that has one already
    bad_rows: int = 0  # rows that can't be read, of interactions and of items
    filtered_bad_rows: int = 0  # rows that can't be read, and that a filter leaves out anyway


@dataclass(frozen=True, eq=False)
class Built:
    """A domain, what was left out on the way, and sentences for the person who asked for it."""

    domain: Domain
    left: Left
    bad: BadRows
    notes: tuple[str, ...]


def build_domain(
    raw: RawLog,
    name: str,
    *,
    unlisted: Unlisted = "error",
    minimum_rating: float | None = None,
    bad_rows: Faulty = "fail",
    filters: Filters | None = None,
    checked: bool = True,
) -> Built:
    """Make a domain of a reader's tables.

    Users are in the order of their first row; items in the order of the catalogue (without
    one, of their first row). A user's interactions are ordered by the whole time, fractions of a
    second too, and where times tie, by row. `unlisted` says what becomes of an interaction whose
    item has no catalogue row. Ratings below `minimum_rating` are left out; ratings are not kept.
    A row that can't be read is an error with the file, the column and the first offending row, or
    is dropped (`bad_rows`); rows that the rating, `unlisted` or `filters` leave out are no error.
    `checked` false: the tables are weft's own, whose times need no second look.
    """
    log = raw.interactions
    log.require("user_id", "item_id", *(["timestamp"] if raw.time_unit != "order" else []))
    if minimum_rating is not None:
        log.require("rating")
    items = build_items(raw, bad_rows, checked=checked)
    rows = read_rows(raw, items.frame["item_id"], minimum_rating, checked=checked)
    outside = _outside(rows.times, filters)
    placed = place_items(rows, items.frame, unlisted, rows.below | outside | rows.faults.mask())
    bad = rows.faults.mask() & ~rows.below & ~placed.dropped
    anyway = bad & (outside | ~_of_wanted_items(placed, filters))
    dropped = rows.faults.settle(bad & ~anyway, bad_rows)
    keep = ~(rows.below | bad) & (placed.item >= 0)
    if not keep.any():
        raise DataError(f"{log.file}: no interaction is left (rating too low or item not listed)")
    domain = Domain(name, Catalogue(placed.items), _sequences(rows, placed.item, keep))
    if raw.items is None and bad.any():  # what only bad rows name is no item
        domain = keep_items(domain, np.bincount(placed.item[~bad], minlength=len(placed.items)) > 0)
    total = log.bad + items.bad + dropped
    left = Left(
        int(rows.below.sum()), int(placed.dropped.sum()), placed.added, items.repeated,
        total.count, int(anyway.sum()),
    )  # fmt: skip
    notes = [*items.notes, *rows.notes]
    if checked and raw.time_unit != "order":
        notes += _time_notes(rows.times.seconds, keep, log)
    return Built(domain, left, total, tuple(notes))


def _outside(times: Times, filters: Filters | None) -> Mask:
    """[n] read, and outside the filters' window: no complaint about such a time is needed."""
    out: Mask = np.zeros(len(times.seconds), dtype=bool)
    if filters is None or times.unit == "order":
        return out
    if filters.time_from is not None:
        out |= times.readable & (times.seconds < filters.time_from)
    if filters.time_until is not None:
        out |= times.readable & (times.seconds >= filters.time_until)
    return out


def _of_wanted_items(placed: Placed, filters: Filters | None) -> Mask:
    """[n] of an item that the filters of items keep, or of none."""
    if filters is None or not (filters.where or filters.titled):
        return np.ones(len(placed.item), dtype=bool)
    wanted: Mask = np.append(item_mask(placed.items, filters), True)[placed.item]  # -1: the last
    return wanted & ~(placed.lost & (placed.item < 0))  # an item that would be added has no text


def _sequences(rows: Rows, item: NDArray[np.int32], keep: Mask) -> Sequences:
    user, user_ids = number_users(rows.cells["user_id"])
    sequences = _order(user, item, rows.times, keep, user_ids)
    return replace(sequences, time=sequences.positions) if rows.times.unit == "order" else sequences


def _order(
    user: NDArray[np.int32],
    item: NDArray[np.int32],
    times: Times,
    keep: Mask,
    user_ids: pl.Series,
) -> Sequences:
    """Compressed rows by (user, whole time, row). Users without a kept interaction vanish."""
    time, fraction = times.seconds, times.fraction
    if not keep.all():
        user, item, time = user[keep], item[keep], time[keep]
        fraction = None if fraction is None else fraction[keep]
    same = user[1:] == user[:-1]
    sorted_already = (user[1:] >= user[:-1]).all() and (time[1:] >= time[:-1])[same].all()
    if fraction is not None or not sorted_already:
        keys = (time, user) if fraction is None else (fraction, time, user)
        rows = np.lexsort(keys)  # stable: rows of equal user and time stay in file order
        user, item, time = user[rows], item[rows], time[rows]
    lengths = np.bincount(user, minlength=len(user_ids))
    present = lengths > 0
    offsets = np.concatenate([[0], np.cumsum(lengths[present])]).astype(np.int64)
    return Sequences(user_ids.filter(pl.Series(present)), offsets, item, time)


def _time_notes(seconds: NDArray[np.int64], keep: Mask, log: Table) -> list[str]:
    """Sentences on times that are odd for a log of the web."""
    rows = np.flatnonzero(keep)
    left = seconds[rows]
    if left.max() < ORDER_INDEX_LIMIT:
        return [f"{log.file}: {order_index(left, ORDER_INDEX_LIMIT)}"]
    return [f"{log.file}: {one}" for one in odd_times(left, lambda at: log.place(int(rows[at])))]
