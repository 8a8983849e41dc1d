"""The items that a target is ranked among: drawn once per user, the same for every recommender."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from weft.data.domain import Domain, Examples, IntArray
from weft.errors import WeftError

SMOOTHING = 1
"""Added to every item's count, so that an item never seen in training can still be drawn."""

_CHUNK = 8192  # examples drawn for at once; no draw depends on it
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class CandidateSettings(BaseModel):
    """How many items are drawn beside the target, and with what probability."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    drawn: int = Field(default=29, ge=1)
    by: Literal["uniform", "popularity"] = "uniform"


def train_counts(domain: Domain, users: IntArray | None = None) -> NDArray[np.int64]:
    """[items] int64: training interactions per item.

    Leave-one-out (`users` is None): everything but each user's last two, which are the
    targets of validation and test. Split by user: everything of the training users `users`.
    """
    sequences = domain.sequences
    if users is None:
        starts, lengths = sequences.offsets[:-1], np.maximum(sequences.lengths - 2, 0)
    else:
        starts, lengths = sequences.offsets[users], sequences.lengths[users]
    _, where = _spread(starts, lengths)
    return np.bincount(sequences.item[where], minlength=len(domain.items)).astype(np.int64)


def draw_candidates(
    examples: Examples,
    settings: CandidateSettings,
    seed: int,
    counts: NDArray[np.int64] | None = None,
) -> NDArray[np.int32]:
    """[n, 1 + drawn] int32 item indices; column 0 is the target.

    Drawn without replacement, one after the other, with equal probability or in proportion
    to `counts + SMOOTHING` (default: `train_counts` of the domain). Never drawn: an item
    without a title, an item of the user's whole sequence, an item whose title is that of
    one of those or of another candidate. A draw is fixed by the seed, the user's id and the
    target's position in the sequence; other users, their order and batches don't matter.
    """
    pool = _pool(examples.domain, settings, counts)
    keys = user_keys(examples, seed)
    out = np.empty((len(examples), 1 + settings.drawn), dtype=np.int32)
    out[:, 0] = examples.targets
    for start in range(0, len(examples), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(examples)))
        out[rows, 1:] = _draw(examples.take(rows), keys[rows], pool, settings.drawn)
    return out


def user_keys(examples: Examples, seed: int) -> NDArray[np.uint64]:
    """[n] uint64: the start of each example's own stream of random numbers."""
    texts = zip(examples.user_ids(), examples.end.tolist(), strict=True)
    digests = b"".join(
        hashlib.blake2b(
            f"{seed}|{end}|{user}".encode("utf-8", "surrogatepass"), digest_size=8
        ).digest()
        for user, end in texts
    )
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


@dataclass(frozen=True, eq=False)
class _Pool:
    """What can be drawn at all, and how likely each item of it is."""

    domain: Domain
    items: NDArray[np.int64]  # [p] item indices, titled
    group: NDArray[np.int64]  # [p] their title groups
    weight: NDArray[np.int64]  # [p] relative probability

    @property
    def cumulative(self) -> NDArray[np.int64]:
        return np.cumsum(self.weight)


def _pool(domain: Domain, settings: CandidateSettings, counts: NDArray[np.int64] | None) -> _Pool:
    titled = np.array([bool(title.strip()) for title in domain.items.titles], dtype=bool)
    items = np.flatnonzero(titled)
    group = domain.items.title_group[items]
    if len(np.unique(group)) < settings.drawn:
        raise _too_small(domain, settings.drawn, f"has {len(np.unique(group))} different titles")
    if settings.by == "uniform":
        weight = np.ones(len(items), dtype=np.int64)
    else:
        counts = train_counts(domain) if counts is None else counts
        weight = counts[items].astype(np.int64) + SMOOTHING
    return _Pool(domain, items, group, weight)


def _draw(
    examples: Examples, keys: NDArray[np.uint64], pool: _Pool, drawn: int
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
        out[row] = _draw_exactly(examples.take(np.array([row])), keys[row], pool, drawn)
    return out


def _propose(
    examples: Examples, keys: NDArray[np.uint64], pool: _Pool, drawn: int, proposals: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Draw with replacement and reject: the chosen items [m, drawn] of the rows with enough [n]."""
    number = _uniform(keys[:, None], np.arange(proposals, dtype=np.uint64)[None, :])
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


def _draw_exactly(examples: Examples, key: np.uint64, pool: _Pool, drawn: int) -> NDArray[np.int64]:
    """[drawn] item indices for one example, by random keys for all items left.

    Efraimidis & Spirakis (2006): sorting −log(u)/weight draws one after the other without
    replacement, in proportion to the weights.
    """
    left = np.flatnonzero(~np.isin(pool.group, _seen_groups(examples)))
    number = _uniform(key ^ _GOLDEN, left.astype(np.uint64))
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


def _spread(
    starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For the ranges [start, start + length): the row of each element, and the element."""
    row = np.repeat(np.arange(len(starts)), lengths)
    before = np.cumsum(lengths) - lengths
    return row, np.arange(len(row)) - before[row] + starts[row]


def _contains(sorted_keys: NDArray[np.int64], keys: NDArray[np.int64]) -> NDArray[np.bool_]:
    where = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    found: NDArray[np.bool_] = sorted_keys[where] == keys
    return found


def _uniform(
    key: NDArray[np.uint64] | np.uint64, counter: NDArray[np.uint64]
) -> NDArray[np.float64]:
    """Numbers in [0, 1): SplitMix64 (Steele et al. 2014) as a counter-based generator."""
    with np.errstate(over="ignore"):
        x = np.asarray(key + (counter + np.uint64(1)) * _GOLDEN)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    numbers: NDArray[np.float64] = (x >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers


def _too_small(domain: Domain, drawn: int, what: str) -> WeftError:
    return WeftError(
        f"the catalogue of domain '{domain.name}' is too small to draw {drawn} candidates: "
        f"it {what}; ask for fewer with candidates.drawn"
    )
