"""From scores to the places that a target can take. Ties never count as wins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weft.data.domain import IntArray

Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TargetPlaces:
    """Where each target stands: `above` items are strictly above it, `level` others level with it.

    Its rank is one of above + 1 … above + 1 + level, each as likely as any other: over all orders
    of the tie, each comes equally often.
    """

    above: NDArray[np.int64]  # [n]
    level: NDArray[np.int64]  # [n]

    @property
    def mean_rank(self) -> Values:
        """[n] float64: the mean of the rank over all orders of the tie."""
        ranks: Values = 1.0 + self.above + self.level / 2.0
        return ranks

    def expectation(self, metric: Callable[[Values, int], Values], k: int) -> Values:
        """[n] float64: the mean of `metric` at cut-off k over all orders of the tie, in closed form.

        With S(j) the sum of the metric at the ranks 1 … j, it is
        (S(above + level + 1) − S(above)) / (level + 1); a metric at k is 0 beyond rank k, so S
        is constant from there on. Without a tie it is the metric at the rank, to the bit.

        >>> from weft.evaluation.metrics import hit
        >>> places = TargetPlaces(above=np.array([0, 0, 2]), level=np.array([0, 2, 0]))
        >>> places.expectation(hit, k=1)  # of three that tie for the first place, each has a third
        array([1.        , 0.33333333, 0.        ])
        """
        alone = metric((self.above + 1).astype(np.float64), k)
        if not self.level.any():
            return alone
        last = self.above + self.level + 1
        longest = int(min(k, last.max()))
        worth = metric(np.arange(1, longest + 1, dtype=np.float64), k)
        total = np.concatenate([[0.0], np.cumsum(worth)])
        summed = total[np.minimum(last, longest)] - total[np.minimum(self.above, longest)]
        return np.where(self.level == 0, alone, summed / (self.level + 1))


def target_places(
    scores: NDArray[np.floating],
    target: IntArray,
    excluded: Sequence[IntArray] | None = None,
) -> TargetPlaces:
    """What stands above and level with each target.

    `scores` [n, c] has no NaN; `target` [n] is the target's column. `excluded[i]` are columns
    that don't take part in row i (masked history); the target always does.

    >>> scores = np.array([[3.0, 1.0, 2.0], [2.0, 2.0, 2.0], [1.0, 2.0, 3.0]])
    >>> places = target_places(scores, target=np.array([0, 1, 0]))
    >>> places.above, places.level
    (array([0, 0, 2]), array([0, 2, 0]))
    >>> places.mean_rank
    array([1., 2., 3.])
    >>> target_places(scores, np.array([0, 1, 0]), excluded=[[1], [0], [2]]).mean_rank
    array([1. , 1.5, 2. ])
    """
    at = scores[np.arange(len(scores)), target][:, None]
    above = (scores > at).sum(axis=1).astype(np.int64)
    level = (scores == at).sum(axis=1).astype(np.int64) - 1
    if excluded is not None:
        # Counted out, not overwritten: a scorer's own −inf must not tie with a masked item.
        for row, columns in enumerate(excluded):
            columns = np.setdiff1d(columns, target[row : row + 1])
            above[row] -= (scores[row, columns] > at[row]).sum()
            level[row] -= (scores[row, columns] == at[row]).sum()
    return TargetPlaces(above, level)
