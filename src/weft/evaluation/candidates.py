"""The items that a target is ranked among: drawn once per user, the same for every recommender."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from weft.data.domain import Domain, Examples
from weft.data.draws import mix, uniform, user_keys
from weft.errors import DataError, SettingError
from weft.settings import StrictModel

SMOOTHING = 1
"""Added to every item's count, so that an item never seen in training can still be drawn."""

_CHUNK = 8192  # examples drawn for at once; no draw depends on it
_EXACTLY = np.array([-2])  # a number that is no proposal's: starts the stream of `_draw_exactly`


class CandidateSettings(StrictModel):
    """How many items are drawn beside the target, and with what probability."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    drawn: int = Field(default=29, ge=1)
    by: Literal["uniform", "popularity"] = "uniform"


def train_counts(train: Examples) -> NDArray[np.int64]:
    """[items] int64: how often each item occurs in what training sees.

    That is every user's sequence up to the last target of theirs in `train`, which must be
    the split's whole training part, not a sample of it.
    """
    item = train.domain.sequences.item[train.seen]
    return np.bincount(item, minlength=len(train.domain.items)).astype(np.int64)


def leave_one_out_counts(domain: Domain) -> NDArray[np.int64]:
    """`train_counts` of the leave-one-out split: all but each user's last two interactions."""
    lengths = domain.sequences.lengths
    last = np.where(lengths >= 3, lengths - 2, lengths)
    return _counts_until(domain, np.where(last >= 2, last, 0))  # one item makes no example


def draw_candidates(
    examples: Examples,
    settings: CandidateSettings,
    seed: int,
    counts: NDArray[np.int64] | None = None,
) -> NDArray[np.int32]:
    """[n, 1 + drawn] int32 item indices; column 0 is the target.

    Drawn without replacement, one after the other, with equal probability or in proportion
    to `counts + SMOOTHING` (`train_counts` of the split; default: leave-one-out). Never drawn:
    an item without a title, an item of the user's whole sequence, an item whose title is that
    of one of those or of another candidate. A draw is fixed by the seed, the user's id and the
    target's position in the sequence; other users, their order and batches don't matter.

    A catalogue without titles is a `DataError`, one too small for the draw a `SettingError`.

    >>> from weft.data.mall import mall
    >>> from weft.data.splits import leave_one_out
    >>> test = leave_one_out(mall(users=60, items=40)["toys"]).test
    >>> test.targets[:2]
    array([ 0, 38], dtype=int32)
    >>> draw_candidates(test, CandidateSettings(drawn=4), seed=7)[:2]
    array([[ 0, 32, 33, 23, 16],
           [38, 28, 20, 14, 39]], dtype=int32)
    """
    pool = _pool(examples.domain, settings, counts)
    keys = user_keys(pl.Series(examples.user_ids(), dtype=pl.String), seed, "candidates")
    keys = mix(keys, examples.end)
    out = np.empty((len(examples), 1 + settings.drawn), dtype=np.int32)
    out[:, 0] = examples.targets
    for start in range(0, len(examples), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(examples)))
        out[rows, 1:] = _draw(examples.take(rows), keys[rows], pool, settings.drawn)
    return out


@dataclass(frozen=True, eq=False)
class _ItemPool:
    """What can be drawn at all, and how likely each item of it is."""

    domain: Domain
    items: NDArray[np.int64]  # [p] item indices, titled
    group: NDArray[np.int64]  # [p] their title groups
    weight: NDArray[np.int64]  # [p] relative probability

    @property
    def cumulative(self) -> NDArray[np.int64]:
        return np.cumsum(self.weight)


def _pool(
    domain: Domain, settings: CandidateSettings, counts: NDArray[np.int64] | None
) -> _ItemPool:
    titled = np.array([bool(title.strip()) for title in domain.items.titles], dtype=bool)
    items = np.flatnonzero(titled)
    if not len(items):
        raise DataError(
            f"domain '{domain.name}': none of its {len(domain.items):,} items has a title, and"
            " candidates are items with titles; ingest it again with the column that holds them"
            " (--column title=NAME or --item-column title=NAME)"
        )
    group = domain.items.title_group[items]
    if len(np.unique(group)) < settings.drawn:
        raise _too_small(domain, settings.drawn, f"has {len(np.unique(group))} different titles")
    if settings.by == "uniform":
        weight = np.ones(len(items), dtype=np.int64)
    else:
        counts = leave_one_out_counts(domain) if counts is None else counts
        weight = counts[items].astype(np.int64) + SMOOTHING
    return _ItemPool(domain, items, group, weight)


def _draw(
    examples: Examples, keys: NDArray[np.uint64], pool: _ItemPool, drawn: int
) -> NDArray[np.int64]:
    """[n, drawn] item indices: the first admissible ones of each example's stream of proposals."""
    out = np.empty((len(examples), drawn), dtype=np.int64)
    pending = np.arange(len(examples))
    proposals = drawn + drawn // 2 + 8
    while len(pending) and proposals <= 16 * drawn + 64:
        chosen, enough = _propose(examples.take(pending), keys[pending], pool, drawn, proposals)
        out[pending[enough]] = chosen
        pending = pending[~enough]
        proposals *= 2
    for row in pending.tolist():  # users who have seen nearly everything
        out[row] = _draw_exactly(examples.take(np.array([row])), keys[row : row + 1], pool, drawn)
    return out


def _propose(
    examples: Examples, keys: NDArray[np.uint64], pool: _ItemPool, drawn: int, proposals: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Draw with replacement and reject: the chosen items [m, drawn] of the rows with enough [n]."""
    number = uniform(mix(keys[:, None], np.arange(proposals)[None, :]))
    cumulative = pool.cumulative
    pick = np.searchsorted(cumulative, (number * cumulative[-1]).astype(np.int64), side="right")
    group = pool.group[pick]
    row = np.arange(len(examples))[:, None]
    admitted = ~_contains(_seen_groups(examples), row * len(pool.domain.items) + group)
    order = np.argsort(group, axis=1, kind="stable")
    by_group = np.take_along_axis(group, order, axis=1)
    repeated = np.zeros_like(admitted)
    np.put_along_axis(repeated, order[:, 1:], by_group[:, 1:] == by_group[:, :-1], axis=1)
    admitted &= ~repeated
    place = np.cumsum(admitted, axis=1)
    enough = place[:, -1] >= drawn
    taken = admitted & (place <= drawn) & enough[:, None]
    return pool.items[pick[taken]].reshape(-1, drawn), enough


def _draw_exactly(
    examples: Examples, key: NDArray[np.uint64], pool: _ItemPool, drawn: int
) -> NDArray[np.int64]:
    """[drawn] item indices for one example, by random keys for all items left.

    Efraimidis & Spirakis (2006): sorting −log(u)/weight draws one after the other without
    replacement, in proportion to the weights.
    """
    left = np.flatnonzero(~np.isin(pool.group, _seen_groups(examples)))
    number = uniform(mix(mix(key, _EXACTLY), left))
    order = left[np.argsort(-np.log1p(-number) / pool.weight[left], kind="stable")]
    _, first = np.unique(pool.group[order], return_index=True)
    if len(first) < drawn:
        user = examples.user_ids()[0]
        raise _too_small(pool.domain, drawn, f"leaves {len(first)} for user '{user}'")
    return pool.items[order[np.sort(first)[:drawn]]]


def _seen_groups(examples: Examples) -> NDArray[np.int64]:
    """Sorted keys `row * items + title group` of each example's whole sequence."""
    sequences = examples.domain.sequences
    row, where = _spread(sequences.offsets[examples.user], sequences.lengths[examples.user])
    group = examples.domain.items.title_group[sequences.item[where]]
    return np.sort(row * len(examples.domain.items) + group)


def _counts_until(domain: Domain, last: NDArray[np.int64]) -> NDArray[np.int64]:
    """[items] int64: occurrences among the first `last[u]` interactions of each user."""
    _, where = _spread(domain.sequences.offsets[:-1], last)
    counts = np.bincount(domain.sequences.item[where], minlength=len(domain.items))
    return counts.astype(np.int64)


def _spread(
    starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For the ranges [start, start + length): the row of each element, and the element."""
    row = np.repeat(np.arange(len(starts)), lengths)
    before = np.cumsum(lengths) - lengths
    return row, np.arange(len(row)) - before[row] + starts[row]


def _contains(sorted_keys: NDArray[np.int64], keys: NDArray[np.int64]) -> NDArray[np.bool_]:
    where = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    present: NDArray[np.bool_] = sorted_keys[where] == keys
    return present


def _too_small(domain: Domain, drawn: int, what: str) -> SettingError:
    return SettingError(
        f"the catalogue of domain '{domain.name}' is too small to draw {drawn} candidates: "
        f"it {what}; ask for fewer with candidates.drawn (--drawn)"
    )
