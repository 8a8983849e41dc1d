"""The best items of each history, and which items a title stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weft.data.domain import Catalogue, IntArray


@dataclass(frozen=True, eq=False)
class Ranking:
    """The best items of each history, best first: `items` [n, k] int64 and `scores` [n, k] float32."""

    items: NDArray[np.int64]
    scores: NDArray[np.float32]


def best(scores: NDArray[np.float32], k: int, masked: Sequence[IntArray] | None = None) -> Ranking:
    """The k best columns of each row of `scores` [n, items]; ties go to the lower index.

    The items in `masked[i]` are left out of row i. Fewer than k come back only where a catalogue has
    fewer; a masked item then stands last, with score −inf.

    >>> scores = np.array([[0.1, 0.9, 0.9, 0.4], [0.5, 0.2, 0.1, 0.3]], dtype=np.float32)
    >>> best(scores, 2).items
    array([[1, 2],
           [0, 3]])
    >>> best(scores, 2, masked=[np.array([1]), np.array([0])]).items
    array([[2, 3],
           [3, 1]])
    """
    scores = np.array(scores, dtype=np.float32)
    for row, items in enumerate(masked or []):
        scores[row, np.asarray(items, dtype=np.int64)] = -np.inf
    k = min(k, scores.shape[1])
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return Ranking(order.astype(np.int64), np.take_along_axis(scores, order, axis=1))


def rows_with_titles(
    catalogue: Catalogue, histories: Sequence[Sequence[str]]
) -> list[NDArray[np.int64]]:
    """For each history of titles the catalogue's items of these titles (case, outer space ignored)."""
    rows_of: dict[str, list[int]] = {}
    for row, title in enumerate(catalogue.titles):
        rows_of.setdefault(title.strip().casefold(), []).append(row)
    return [
        np.array([r for t in history for r in rows_of.get(t.strip().casefold(), [])], np.int64)
        for history in histories
    ]
