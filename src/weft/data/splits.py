"""Splits: which (history, target) pairs a recommender learns from, and is measured on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weft.data.domain import Domain, Examples


@dataclass(frozen=True, eq=False)
class Split:
    """Three disjoint sets of examples of one domain, and the words that made them."""

    kind: str
    train: Examples
    validation: Examples
    test: Examples


def leave_one_out(domain: Domain) -> Split:
    """Test: each user's last item; validation: the one before; train: all earlier ones.

    For i1 … iL the train targets are i2 … i(L-2), each with all items before it as history.
    A user of length 3 has no train example. A user of length 2 gives its one example to train
    and is not evaluated; a user of length 1 gives none.
    """
    lengths = domain.sequences.lengths
    evaluated = np.flatnonzero(lengths >= 3)
    train = np.where(lengths >= 3, lengths - 2, np.minimum(lengths, 2))
    return Split(
        "leave_one_out",
        _all_targets(domain, train),
        Examples(domain, evaluated, lengths[evaluated] - 2),
        Examples(domain, evaluated, lengths[evaluated] - 1),
    )


def _all_targets(domain: Domain, until: NDArray[np.int64]) -> Examples:
    """Examples with end = 1 … until[u]-1 for every user, in order of user, then position."""
    counts = np.maximum(until - 1, 0)
    user = np.repeat(np.arange(len(until)), counts)
    starts = np.cumsum(counts) - counts
    return Examples(domain, user, np.arange(len(user)) - np.repeat(starts, counts) + 1)
