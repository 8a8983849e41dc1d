"""What a domain looks like, in numbers that decide whether it can be trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from weft.data.domain import Domain
from weft.data.filters import has_real_times
from weft.data.folder import tied_users
from weft.data.splits import SplitSettings, parse_split

LENGTH_EDGES = (1, 2, 3, 4, 5, 10, 20, 50, 100, 200, 500, 1_000)
TITLE_EDGES = (1, 10, 20, 40, 80, 160, 320, 640)


@dataclass(frozen=True)
class Bin:
    """A histogram's bar: values from `low` to `high`, both included; `high` None is no bound."""

    low: int
    high: int | None
    count: int


@dataclass(frozen=True)
class Quartiles:
    """Smallest, quartiles, mean, largest."""

    least: float
    lower: float
    median: float
    upper: float
    most: float
    mean: float


@dataclass(frozen=True)
class PartSizes:
    """How much one part of a split holds."""

    users: int
    targets: int


@dataclass(frozen=True)
class SplitSizes:
    """What a split makes of a domain; `split` is as protocols and reports name it."""

    split: str
    train: PartSizes
    validation: PartSizes
    test: PartSizes


@dataclass(frozen=True)
class DomainReport:
    """See `inspect_domain`. Times are ISO 8601 in UTC, or None for an order index."""

    name: str
    hash: str
    users: int
    items: int
    interactions: int
    density: float  # interactions / (users x items)
    evaluable_users: int  # with 3 interactions or more: leave-one-out can measure them
    first_time: str | None
    last_time: str | None
    users_with_ties: int  # users with two interactions of one time
    tied_interactions: int  # interactions that share their user and time with another
    repeated_items: int  # interactions with an item that their user had before
    unused_items: int  # catalogue rows that occur in no sequence
    missing_titles: int
    duplicate_titles: int  # items whose title another item has too (case and outer space ignored)
    text_columns: dict[str, int]  # column -> items that have a text there
    lengths: Quartiles | None  # of sequences, in interactions
    length_histogram: tuple[Bin, ...]
    titles: Quartiles | None  # of titles there are, in characters
    title_histogram: tuple[Bin, ...]
    popularity: Quartiles | None  # interactions per catalogue item
    top_percent_share: float  # share of the interactions that the top 1 % of items has
    split: SplitSizes | None = None  # where one was asked for


def inspect_domain(
    domain: Domain, split: SplitSettings | str | Mapping[str, Any] | None = None
) -> DomainReport:
    """Count what there is in a domain, and in the parts of a split of it; nothing is changed.

    >>> from weft.data.mall import mall
    >>> report = inspect_domain(mall(users=40, items=50)["home"], split="leave_one_out")
    >>> report.users, report.items, report.interactions
    (40, 50, 326)
    >>> report.split.test
    PartSizes(users=40, targets=40)
    """
    sequences, frame = domain.sequences, domain.items.frame
    user, item, time = sequences.users, sequences.item, sequences.time
    real = has_real_times(domain)
    per_item = np.bincount(item, minlength=len(domain.items))
    title_lengths = frame["title"].str.strip_chars().str.len_chars().to_numpy()
    titled = title_lengths[title_lengths > 0]
    _, groups, sizes = np.unique(domain.items.title_group, return_inverse=True, return_counts=True)
    same = (user[1:] == user[:-1]) & (time[1:] == time[:-1])
    tied = np.zeros(len(user), dtype=bool)
    tied[1:] |= same
    tied[:-1] |= same
    pairs = np.unique(user.astype(np.int64) * len(domain.items) + item)
    top = np.sort(per_item)[::-1][: max(1, len(per_item) // 100)]
    return DomainReport(
        name=domain.name,
        hash=domain.hash,
        users=len(sequences),
        items=len(domain.items),
        interactions=len(item),
        density=len(item) / max(1, len(sequences) * len(domain.items)),
        evaluable_users=int((sequences.lengths >= 3).sum()),
        first_time=_iso(int(time.min())) if real else None,
        last_time=_iso(int(time.max())) if real else None,
        users_with_ties=tied_users(domain),
        tied_interactions=int(tied.sum()),
        repeated_items=len(item) - len(pairs),
        unused_items=int((per_item == 0).sum()),
        missing_titles=int((title_lengths == 0).sum()),
        duplicate_titles=int((sizes[groups] > 1).sum()),
        text_columns={
            column: int((frame[column].str.strip_chars() != "").sum())
            for column in frame.columns
            if column != "item_id" and frame[column].dtype == pl.String
        },
        lengths=_quartiles(sequences.lengths),
        length_histogram=_histogram(sequences.lengths, LENGTH_EDGES),
        titles=_quartiles(titled),
        title_histogram=_histogram(titled, TITLE_EDGES),
        popularity=_quartiles(per_item),
        top_percent_share=float(top.sum() / max(1, len(item))),
        split=None if split is None else _split_sizes(domain, parse_split(split)),
    )


def _split_sizes(domain: Domain, settings: SplitSettings) -> SplitSizes:
    parts = settings.make(domain)
    sizes = [
        PartSizes(len(np.unique(part.user)), len(part))
        for part in (parts.train, parts.validation, parts.test)
    ]
    return SplitSizes(str(settings), *sizes)


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _quartiles(values: NDArray[np.integer]) -> Quartiles | None:
    if not len(values):
        return None
    least, lower, median, upper, most = np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).tolist()
    return Quartiles(least, lower, median, upper, most, float(values.mean()))


def _histogram(values: NDArray[np.integer], edges: tuple[int, ...]) -> tuple[Bin, ...]:
    """Bars from the first to the last that is not empty."""
    bounds = [*pairwise(edges), (edges[-1], None)]
    counts = [
        int(((values >= low) & (True if high is None else values < high)).sum())
        for low, high in bounds
    ]
    filled = np.flatnonzero(counts)
    if not len(filled):
        return ()
    return tuple(
        Bin(low, None if high is None else high - 1, count)
        for (low, high), count in list(zip(bounds, counts, strict=True))[filled[0] : filled[-1] + 1]
    )
