"""Filters: which part of a domain is used. Every step is a pure function Domain -> Domain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from weft.data.domain import Catalogue, Domain, Sequences
from weft.data.draws import mix, user_keys
from weft.data.times import ORDER_INDEX_LIMIT, YEAR_10000
from weft.errors import DataError, MismatchError, SettingError
from weft.settings import StrictModel

SECONDS_A_DAY = 86_400


@dataclass(frozen=True)
class Counts:
    users: int
    items: int  # catalogue rows
    interactions: int


@dataclass(frozen=True)
class Removed:
    """One filter step: its name and settings, the counts before and after it."""

    step: str
    before: Counts
    after: Counts


def _unix_seconds(value: object) -> object:
    """An ISO date or date-time (UTC unless it names a zone) -> Unix seconds."""
    if not isinstance(value, str):
        return _in_range(value)
    try:
        when = datetime.fromisoformat(value)
    except ValueError:
        if value.isdecimal() and len(value) < 20:
            return _in_range(int(value))
        raise ValueError(f"'{value}' is no date (2014-01-31) and no Unix seconds") from None
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp())


def _in_range(value: object) -> object:
    if type(value) is int and not 0 <= value < YEAR_10000:
        raise ValueError(f"{value} is no Unix time in seconds, of 1970 to 9999 (or write a date)")
    return value


Time = Annotated[int, BeforeValidator(_unix_seconds)]


class KCore(StrictModel):
    """Least number of interactions of every user and of every item."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    users: int = Field(default=5, ge=0)
    items: int = Field(default=5, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: object) -> object:
        """`k_core: 5` is short for 5 of each."""
        return {"users": value, "items": value} if isinstance(value, int | float | str) else value


class Filters(StrictModel):
    """What to leave out, applied in the order of the fields; by default nothing.

    >>> filters = Filters(time_from="2014-01-01", k_core=5, maximum_length=50)
    >>> filters.time_from, filters.k_core
    (1388534400, KCore(users=5, items=5))
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    where: Mapping[str, str] = Field(
        default_factory=dict, description="keep the items whose column has exactly this text"
    )
    titled: bool = Field(default=False, description="leave out items without a title")
    time_from: Time | None = Field(
        default=None, description="first time kept: date or Unix seconds"
    )
    time_until: Time | None = Field(default=None, description="first time not kept any more")
    one_per_day: Literal["first", "random"] | None = Field(
        default=None, description="keep one interaction per user and UTC day"
    )
    distinct: bool = Field(
        default=False, description="keep a user's first interaction with an item, no later one"
    )
    k_core: KCore | None = Field(
        default=None, description="repeat until every user and item has this many interactions"
    )
    minimum_length: int | None = Field(default=None, ge=1, description="shortest sequence kept")
    maximum_length: int | None = Field(
        default=None, ge=1, description="keep only the latest so many"
    )
    sample_users: int | None = Field(default=None, ge=1, description="draw this many users")
    unused_items: Literal["keep", "drop"] | None = Field(
        default=None,
        description="catalogue rows of items that no longer occur; unset: the k-core drops them,"
        " the other steps keep them",
    )
    seed: int = Field(default=0, description="of one_per_day 'random' and sample_users")

    @model_validator(mode="after")
    def _window(self) -> Filters:
        start, stop = self.time_from, self.time_until
        if start is not None and stop is not None and start >= stop:
            raise ValueError("time_from must be before time_until")
        return self


def apply_filters(domain: Domain, filters: Filters) -> tuple[Domain, tuple[Removed, ...]]:
    """The filtered domain and what each step removed.

    Raises `DataError`, naming the step, if a step leaves no interaction.

    >>> from weft.data.mall import mall
    >>> toys = mall(users=60, items=40)["toys"]
    >>> filtered, steps = apply_filters(toys, Filters(k_core=5, maximum_length=8))
    >>> [(one.step, one.after.interactions) for one in steps]
    [('k_core users ≥ 5, items ≥ 5', 441), ('maximum_length 8', 371)]
    >>> filtered.sequences.lengths.max()
    np.int64(8)
    """
    done: list[Removed] = []
    for name, step in _steps(filters):
        before = counts(domain)
        domain = step(domain)
        done.append(Removed(name, before, counts(domain)))
        if not len(domain.sequences.item):
            raise DataError(
                f"domain '{domain.name}': filter '{name}' leaves nothing of"
                f" {before.users:,} users and {before.interactions:,} interactions"
            )
    return domain, tuple(done)


def counts(domain: Domain) -> Counts:
    return Counts(len(domain.sequences), len(domain.items), len(domain.sequences.item))


def _steps(f: Filters) -> list[tuple[str, Callable[[Domain], Domain]]]:
    steps: list[tuple[str, Callable[[Domain], Domain]]] = []
    for column, text in f.where.items():
        where = partial(keep_where, column=column, value=text)
        steps.append((f"where {column} = {text}", where))
    if f.titled:
        steps.append(("titled", keep_titled))
    if f.time_from is not None or f.time_until is not None:
        name = f"time [{_bound(f.time_from)}, {_bound(f.time_until)})"
        steps.append((name, lambda d: keep_window(d, f.time_from, f.time_until)))
    if (one := f.one_per_day) is not None:
        steps.append((f"one_per_day {one}", lambda d: keep_one_per_day(d, one, f.seed)))
    if f.distinct:
        steps.append(("distinct", keep_distinct))
    if (core := f.k_core) is not None:
        drop = f.unused_items != "keep"
        name = f"k_core users ≥ {core.users}, items ≥ {core.items}"
        steps.append((name, lambda d: k_core(d, core.users, core.items, drop_items=drop)))
    if (low := f.minimum_length) is not None:
        steps.append((f"minimum_length {low}", lambda d: keep_long(d, low)))
    if (high := f.maximum_length) is not None:
        steps.append((f"maximum_length {high}", lambda d: keep_latest(d, high)))
    if (n := f.sample_users) is not None:
        steps.append((f"sample_users {n}, seed {f.seed}", lambda d: sample_users(d, n, f.seed)))
    if f.unused_items == "drop":
        steps.append(("unused_items drop", drop_unused_items))
    return steps


def _bound(time: int | None) -> str:
    return "" if time is None else datetime.fromtimestamp(time, UTC).isoformat()


def keep_where(domain: Domain, column: str, value: str) -> Domain:
    """Keep the items whose `column` is exactly `value`; the others leave the catalogue too."""
    frame = domain.items.frame
    if column not in frame.columns:
        raise SettingError(
            f"domain '{domain.name}': where names the column '{column}'; its items have"
            f" {', '.join(frame.columns)}"
        )
    return keep_items(domain, (frame[column] == value).to_numpy())


def keep_titled(domain: Domain) -> Domain:
    """Keep the items with a title; the others leave the catalogue too."""
    return keep_items(domain, _titled(domain.items.frame))


def item_mask(items: pl.DataFrame, filters: Filters) -> NDArray[np.bool_]:
    """[items]: which catalogue rows `where` and `titled` keep; a column that isn't there, all."""
    keep: NDArray[np.bool_] = np.ones(items.height, dtype=bool)
    for column, text in filters.where.items():
        if column in items.columns:
            keep &= (items[column] == text).to_numpy()
    return keep & _titled(items) if filters.titled else keep


def _titled(items: pl.DataFrame) -> NDArray[np.bool_]:
    return (items["title"].str.strip_chars() != "").to_numpy()


def keep_window(domain: Domain, start: int | None, stop: int | None) -> Domain:
    """Keep start <= time < stop (Unix seconds; None is no bound)."""
    require_real_times(domain, "a time window")
    time = domain.sequences.time
    keep = np.ones(len(time), dtype=bool)
    if start is not None:
        keep &= time >= start
    if stop is not None:
        keep &= time < stop
    return _keep(domain, keep)


def keep_one_per_day(domain: Domain, which: Literal["first", "random"], seed: int = 0) -> Domain:
    """Keep one interaction of each user and UTC day: the first, or one drawn by seed and id."""
    require_real_times(domain, "one interaction per day")
    sequences = domain.sequences
    if not len(sequences.item):
        return domain
    user, day = sequences.users, sequences.time // SECONDS_A_DAY
    first = np.ones(len(user), dtype=bool)  # of its user and day: days are runs, time is sorted
    first[1:] = (user[1:] != user[:-1]) | (day[1:] != day[:-1])
    if which == "first":
        return _keep(domain, first)
    keys = mix(user_keys(sequences.user_ids, seed, "one_per_day")[user], sequences.positions)
    starts = np.flatnonzero(first)
    lowest = np.minimum.reduceat(keys, starts)
    return _keep(domain, keys == np.repeat(lowest, np.diff(starts, append=len(user))))


def keep_distinct(domain: Domain) -> Domain:
    """Keep each user's first interaction with an item: a sequence then has no item twice."""
    sequences = domain.sequences
    pair = sequences.users.astype(np.int64) * max(1, len(domain.items)) + sequences.item
    _, first = np.unique(pair, return_index=True)  # the earliest: rows are in time order
    keep = np.zeros(len(pair), dtype=bool)
    keep[first] = True
    return _keep(domain, keep)


def k_core(domain: Domain, users: int = 5, items: int = 5, *, drop_items: bool = True) -> Domain:
    """Repeat until every user has >= `users` interactions and every item >= `items`.

    Interactions count, not distinct items. `drop_items`: items that do not occur (any more)
    leave the catalogue.
    """
    user, item = domain.sequences.users, domain.sequences.item
    rows = np.arange(len(item))
    while len(rows):
        keep = np.bincount(item)[item] >= items
        keep &= np.bincount(user)[user] >= users
        if keep.all():
            break
        user, item, rows = user[keep], item[keep], rows[keep]
    mask = np.zeros(len(domain.sequences.item), dtype=bool)
    mask[rows] = True
    core = _keep(domain, mask)
    return drop_unused_items(core) if drop_items else core


def keep_long(domain: Domain, minimum: int) -> Domain:
    """Keep the users with at least `minimum` interactions."""
    lengths = domain.sequences.lengths
    return _keep(domain, np.repeat(lengths >= minimum, lengths))


def keep_latest(domain: Domain, maximum: int) -> Domain:
    """Keep each user's latest `maximum` interactions."""
    sequences = domain.sequences
    from_end = np.repeat(sequences.lengths, sequences.lengths) - sequences.positions
    return _keep(domain, from_end <= maximum)


def sample_users(domain: Domain, n: int, seed: int = 0) -> Domain:
    """Draw `n` users (all, if there are fewer) by seed and id; the order of users stays."""
    sequences = domain.sequences
    if n >= len(sequences):
        return domain
    keys = user_keys(sequences.user_ids, seed, "sample_users")
    chosen = np.zeros(len(sequences), dtype=bool)
    chosen[np.argsort(keys, kind="stable")[:n]] = True
    return _keep(domain, np.repeat(chosen, sequences.lengths))


def drop_unused_items(domain: Domain) -> Domain:
    """Leave only the items that occur in a sequence; the order of items stays."""
    used = np.bincount(domain.sequences.item, minlength=len(domain.items)) > 0
    return keep_items(domain, used)


def has_real_times(domain: Domain) -> bool:
    """False if `time` is a per-user order index, not Unix seconds."""
    time = domain.sequences.time
    return bool(len(time) and time.max() >= ORDER_INDEX_LIMIT)


def require_real_times(domain: Domain, what: str) -> None:
    """Raise `MismatchError` if the domain has only an order index and `what` needs times."""
    if not has_real_times(domain):
        raise MismatchError(
            f"domain '{domain.name}' has an order index and no times: {what} has no meaning there"
        )


def keep_items(domain: Domain, keep: NDArray[np.bool_]) -> Domain:
    """Only these catalogue rows, and the interactions with them."""
    if keep.all():
        return domain
    rows = np.cumsum(keep, dtype=np.int32) - 1
    left = _keep(domain, keep[domain.sequences.item])
    sequences = replace(left.sequences, item=rows[left.sequences.item])
    return Domain(domain.name, Catalogue(domain.items.frame.filter(pl.Series(keep))), sequences)


def _keep(domain: Domain, keep: NDArray[np.bool_]) -> Domain:
    """Only these interactions; users without any left vanish, the catalogue stays whole."""
    old = domain.sequences
    if keep.all() and (old.lengths > 0).all():
        return domain
    ends = np.concatenate([[0], np.cumsum(keep)])[old.offsets]  # kept ones before each user
    lengths = np.diff(ends)
    present = lengths > 0
    offsets = np.concatenate([[0], np.cumsum(lengths[present])]).astype(np.int64)
    ids = old.user_ids.filter(pl.Series(present))
    sequences = Sequences(ids, offsets, old.item[keep], old.time[keep])
    return Domain(domain.name, domain.items, sequences)


def describe(removed: tuple[Removed, ...]) -> list[dict[str, Any]]:
    """The report as plain JSON values."""
    return [asdict(step) for step in removed]
