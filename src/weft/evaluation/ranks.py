"""From scores to the target's rank. Ties never count as wins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from weft.data.domain import IntArray


def expected_ranks(
    scores: NDArray[np.floating],
    target: IntArray,
    excluded: Sequence[IntArray] | None = None,
) -> NDArray[np.float64]:
    """[n] float64: 1 + items above the target + half of the others level with it.

    That is the mean of the target's rank over all orders of its tie. `scores` [n, c] has no
    NaN; `target` [n] is the target's column. `excluded[i]` are columns that don't take part
    in row i (masked history); the target always does.
    """
    at = scores[np.arange(len(scores)), target][:, None]
    above = (scores > at).sum(axis=1).astype(np.float64)
    level = (scores == at).sum(axis=1) - 1.0
    if excluded is not None:
        # Counted out, not overwritten: a scorer's own −inf must not tie with a masked item.
        for row, columns in enumerate(excluded):
            columns = np.setdiff1d(columns, target[row : row + 1])
            above[row] -= (scores[row, columns] > at[row]).sum()
            level[row] -= (scores[row, columns] == at[row]).sum()
    ranks: NDArray[np.float64] = 1.0 + above + level / 2.0
    return ranks
