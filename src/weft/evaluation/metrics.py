"""What a rank is worth. Every function maps ranks [n] to values [n] in [0, 1], one per user."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from weft.errors import SettingError

Ranks = NDArray[np.float64]


def ndcg(ranks: Ranks, k: int) -> Ranks:
    """1 / log2(1 + rank) if rank <= k, else 0: NDCG@k with a single relevant item.

    >>> ndcg(np.array([1.0, 3.0, 6.0]), k=5)
    array([1. , 0.5, 0. ])
    """
    return np.where(ranks <= k, 1.0 / np.log2(1.0 + ranks), 0.0)


def mrr(ranks: Ranks, k: int) -> Ranks:
    """1 / rank if rank <= k, else 0.

    >>> mrr(np.array([1.0, 4.0, 6.0]), k=5)
    array([1.  , 0.25, 0.  ])
    """
    return np.where(ranks <= k, 1.0 / ranks, 0.0)


def hit(ranks: Ranks, k: int) -> Ranks:
    """1 if rank <= k, else 0: with a single relevant item this is recall@k.

    >>> hit(np.array([1.0, 5.0, 6.0]), k=5)
    array([1., 1., 0.])
    """
    return (ranks <= k).astype(np.float64)


METRICS: dict[str, Callable[[Ranks, int], Ranks]] = {
    "ndcg": ndcg,
    "mrr": mrr,
    "hit": hit,
    "recall": hit,
}


def parse_metric(name: str) -> tuple[bool, Callable[[Ranks, int], Ranks], int]:
    """`[full/]kind@k` -> (over the whole catalogue?, function, k). Any other name is a
    `SettingError`.

    >>> whole, function, k = parse_metric("full/recall@10")
    >>> whole, function.__name__, k
    (True, 'hit', 10)
    """
    whole, _, rest = name.rpartition("/")
    kind, _, k = rest.partition("@")
    if whole not in ("", "full") or kind not in METRICS or not k.isdecimal() or int(k) < 1:
        raise SettingError(
            f"'{name}' is no metric; write one such as ndcg@5, mrr@10, hit@1 or full/recall@10 "
            f"(kinds: {', '.join(METRICS)})"
        )
    return whole == "full", METRICS[kind], int(k)
