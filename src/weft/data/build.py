"""A reader's two tables -> a `Domain`: every id becomes a number once, here, vectorised."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from weft.data.domain import Catalogue, Domain, Sequences
from weft.data.raw import RawLog, Table, broken
from weft.data.source import LOG_COLUMNS, Unlisted
from weft.data.times import to_seconds
from weft.errors import WeftError


@dataclass(frozen=True)
class Left:
    """What building left out or added, in interactions and items."""

    below_rating: int = 0  # interactions under the minimum rating
    unlisted_dropped: int = 0  # interactions of items without a catalogue row
    unlisted_added: int = 0  # items given a catalogue row without text
    repeated_items: int = 0  # later catalogue rows of an item that has one already


def build_domain(
    raw: RawLog, name: str, *, unlisted: Unlisted = "error", minimum_rating: float | None = None
) -> tuple[Domain, Left]:
    """Make a domain of a reader's tables.

    Users are in the order of their first row; items in the order of the catalogue (without
    one, of their first row). A user's interactions are ordered by time, and where times tie,
    by row. `unlisted` says what becomes of an interaction whose item has no catalogue row.
    Ratings below `minimum_rating` are left out; ratings are not kept. Raises `WeftError` with
    the file, the column and the first offending row.
    """
    log = raw.interactions
    log.require("user_id", "item_id", *(["timestamp"] if raw.time_unit != "order" else []))
    if minimum_rating is not None:
        log.require("rating")
    items, repeated = _catalogue(raw)
    codes = _encode(log, items, minimum_rating is not None)
    if codes.is_empty():
        raise WeftError(f"{log.file}: there is no interaction in it")
    user, user_ids = _users(codes["user_id"], log)
    time = _times(codes, raw)
    keep: NDArray[np.bool_] = np.ones(len(user), dtype=bool)
    below = 0
    if minimum_rating is not None:
        keep = _at_least(codes["rating"], minimum_rating, log)
        below = int((~keep).sum())
    item, items, dropped, added = _place_unlisted(codes["item_id"], items, log, unlisted)
    keep &= item >= 0
    if not keep.any():
        raise WeftError(f"{log.file}: no interaction is left (rating too low or item not listed)")
    sequences = _order(user, item, time, keep, user_ids)
    if raw.time_unit == "order":
        sequences = replace(sequences, time=sequences.positions)
    left = Left(below, dropped, added, repeated)
    return Domain(name, Catalogue(items), sequences), left


def _catalogue(raw: RawLog) -> tuple[pl.DataFrame, int]:
    """The catalogue's frame (all strings, no nulls) and the number of repeated rows left out."""
    table = raw.items or raw.interactions
    table.require("item_id")
    texts = [
        c for c in table.columns() if c not in (LOG_COLUMNS if raw.items is None else ("item_id",))
    ]
    frame = _read(table, _as_id("item_id", table), *(_as_text(c, table) for c in texts))
    _refuse_empty(frame["item_id"], "item_id", table)
    if "title" not in frame.columns:
        frame = frame.insert_column(1, pl.repeat("", frame.height, eager=True).alias("title"))
    ids = frame["item_id"]
    if raw.items is None or raw.repeated_items == "first":
        first = frame.unique("item_id", keep="first", maintain_order=True)
        return first, 0 if raw.items is None else frame.height - first.height
    first_rows = ids.is_first_distinct()
    if not first_rows.all():
        row = int(first_rows.not_().arg_true()[0])
        earlier = int((ids == ids[row]).arg_true()[0])
        raise table.error(
            row, "item_id", f"= {ids[row]!r} has a row already ({table.place(earlier)})"
        )
    return frame, 0


def _as_id(column: str, table: Table) -> pl.Expr:
    dtype = table.columns()[column]
    if not (dtype in (pl.String, pl.Categorical, pl.Enum) or dtype.is_integer()):
        raise table.error(0, column, f"holds {dtype}; ids are text or whole numbers")
    return pl.col(column).cast(pl.String)


def _as_text(column: str, table: Table) -> pl.Expr:
    if isinstance(table.columns()[column], pl.List | pl.Array):
        return pl.col(column).cast(pl.List(pl.String)).list.join(", ").fill_null("")
    return pl.col(column).cast(pl.String).fill_null("")


def _read(table: Table, *columns: pl.Expr) -> pl.DataFrame:
    try:
        return table.frame.select(*columns).collect()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise broken(table.file, error) from None


def _encode(log: Table, items: pl.DataFrame, with_rating: bool) -> pl.DataFrame:
    """user_id: Categorical; item_id: UInt32 catalogue row or null; timestamp, rating as they lie."""
    users = pl.Categorical(pl.Categories.random())  # its own string table, freed with the column
    columns = [
        _as_id("user_id", log).cast(users),
        _as_id("item_id", log).cast(pl.Enum(items["item_id"]), strict=False).to_physical(),
    ]
    columns += [pl.col(c) for c in ("timestamp",) if c in log.columns()]
    columns += [pl.col("rating")] if with_rating else []
    return _read(log, *columns)


def _users(column: pl.Series, log: Table) -> tuple[NDArray[np.int32], pl.Series]:
    """[n] int32 user rows numbered by first appearance, and their ids."""
    _refuse_empty(column, "user_id", log)
    codes = column.to_physical().to_numpy()
    first = np.full(int(codes.max()) + 1, -1, dtype=np.int64)
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)  # the last write wins: the first row
    used = np.flatnonzero(first >= 0)
    used = used[np.argsort(first[used])]
    rank = np.empty(len(first), dtype=np.int32)
    rank[used] = np.arange(len(used), dtype=np.int32)
    return rank[codes], column.gather(first[used]).cast(pl.String).alias("user_id")


def _times(codes: pl.DataFrame, raw: RawLog) -> NDArray[np.int64]:
    if raw.time_unit == "order":
        return np.arange(codes.height, dtype=np.int64)  # build_domain makes it a per-user index
    return to_seconds(codes["timestamp"], raw.time_unit, raw.interactions).to_numpy()


def _at_least(ratings: pl.Series, minimum: float, log: Table) -> NDArray[np.bool_]:
    numbers = ratings.cast(pl.Float64, strict=False)
    bad = (numbers.is_null() | numbers.is_nan()).to_numpy()
    if bad.any():
        row = int(np.argmax(bad))
        raise log.error(row, "rating", f"= {ratings[row]!r} is not a number")
    return (numbers >= minimum).to_numpy()


def _place_unlisted(
    codes: pl.Series, items: pl.DataFrame, log: Table, unlisted: Unlisted
) -> tuple[NDArray[np.int32], pl.DataFrame, int, int]:
    """[n] int32 item rows (-1: to drop), the catalogue, interactions dropped, items added."""
    item = codes.cast(pl.Int32).fill_null(-1).to_numpy().copy()
    lost = np.flatnonzero(item < 0)
    if not len(lost):
        return item, items, 0, 0
    ids = _read(log, _as_id("item_id", log))["item_id"].gather(lost)
    _refuse_empty(ids, "item_id", log, lost)
    if unlisted == "error":
        raise log.error(
            int(lost[0]),
            "item_id",
            f"= {ids[0]!r} has no row in the catalogue ({len(lost):,} interactions of"
            f" {ids.n_unique():,} items have none; unlisted: add or drop them)",
        )
    if unlisted == "drop":
        return item, items, len(lost), 0
    new = ids.unique(maintain_order=True)
    item[lost] = ids.cast(pl.Enum(new)).to_physical().cast(pl.Int32).to_numpy() + items.height
    blank = {c: [""] * len(new) for c in items.columns if c != "item_id"}
    more = pl.DataFrame({"item_id": new, **blank}).select(items.columns)
    return item, pl.concat([items, more]), 0, len(new)


def _refuse_empty(
    ids: pl.Series, column: str, table: Table, rows: NDArray[np.int64] | None = None
) -> None:
    empty: Any = (ids.is_null() | (ids.cast(pl.String) == "")).to_numpy()
    if empty.any():
        at = int(np.argmax(empty))
        raise table.error(at if rows is None else int(rows[at]), column, "is empty")


def _order(
    user: NDArray[np.int32],
    item: NDArray[np.int32],
    time: NDArray[np.int64],
    keep: NDArray[np.bool_],
    user_ids: pl.Series,
) -> Sequences:
    """Compressed rows by (user, time, row). Users without a kept interaction vanish."""
    if not keep.all():
        user, item, time = user[keep], item[keep], time[keep]
    same = user[1:] == user[:-1]
    if not ((user[1:] >= user[:-1]).all() and (time[1:] >= time[:-1])[same].all()):
        rows = np.lexsort((time, user))  # stable: rows of equal (user, time) stay in file order
        user, item, time = user[rows], item[rows], time[rows]
    lengths = np.bincount(user, minlength=len(user_ids))
    present = lengths > 0
    offsets = np.concatenate([[0], np.cumsum(lengths[present])]).astype(np.int64)
    return Sequences(user_ids.filter(pl.Series(present)), offsets, item, time)
