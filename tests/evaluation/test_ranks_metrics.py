from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from weft.errors import WeftError
from weft.evaluation.metrics import hit, mrr, ndcg, parse_metric
from weft.evaluation.ranks import target_places

few_values = arrays(np.float32, (4, 7), elements=st.integers(-3, 3).map(float))


@given(few_values)
def test_ranks_are_those_of_the_definition(scores: np.ndarray) -> None:
    target = np.array([0, 3, 6, 2])
    found = target_places(scores, target).mean_rank
    for row, at in enumerate(target):
        own = scores[row, at]
        above = sum(1 for value in scores[row] if value > own)
        level = sum(1 for i, value in enumerate(scores[row]) if value == own and i != at)
        assert found[row] == 1 + above + level / 2


def test_a_tie_is_the_mean_over_its_orders() -> None:
    scores = np.array([[2.0, 1.0, 1.0, 1.0, 0.0]])
    orders = [
        1 + (sorted(range(5), key=lambda i: (-scores[0, i], order[i])).index(2))
        for order in itertools.permutations(range(5))
    ]
    assert target_places(scores, np.array([2])).mean_rank[0] == np.mean(orders) == 3.0


@given(few_values, st.permutations(list(range(7))))
def test_monotone_changes_and_column_order_leave_ranks(
    scores: np.ndarray, order: list[int]
) -> None:
    target = np.zeros(4, dtype=np.int64)
    ranks = target_places(scores, target).mean_rank
    assert (target_places(3 * scores + 8, target).mean_rank == ranks).all()
    assert (target_places(np.exp(scores.astype(np.float64)), target).mean_rank == ranks).all()
    moved = np.full(4, order.index(0))
    assert (target_places(scores[:, order], moved).mean_rank == ranks).all()


def test_masked_items_take_no_part_and_the_target_always_does() -> None:
    scores = np.array([[1.0, 5.0, 3.0, 3.0], [-np.inf, -np.inf, 0.0, -np.inf]])
    target = np.array([2, 0])
    masked = [np.array([1, 1, 2]), np.array([1])]
    assert target_places(scores, target).mean_rank.tolist() == [2.5, 3.0]
    assert target_places(scores, target, masked).mean_rank.tolist() == [1.5, 2.5]


@given(arrays(np.float64, 20, elements=st.integers(2, 60).map(lambda n: n / 2)), st.integers(1, 30))
def test_metrics_agree_with_plain_loops_and_stay_in_bounds(ranks: np.ndarray, k: int) -> None:
    for function, gain in (
        (ndcg, lambda r: 1 / np.log2(1 + r)),
        (mrr, lambda r: 1 / r),
        (hit, lambda r: 1.0),
    ):
        values = function(ranks, k)
        assert values.tolist() == pytest.approx([gain(r) if r <= k else 0.0 for r in ranks])
        assert ((values >= 0) & (values <= 1)).all()
        assert (function(ranks, k + 1) >= values).all()
    assert (mrr(ranks, k) <= ndcg(ranks, k)).all()
    assert (ndcg(ranks, k) <= hit(ranks, k)).all()


def test_metric_names() -> None:
    assert parse_metric("ndcg@5")[::2] == (False, 5)
    assert parse_metric("full/recall@10")[::2] == (True, 10)
    for wrong in ("ndcg", "ndcg@0", "auc@3", "half/ndcg@3", "ndcg@x", "full/full/ndcg@3"):
        with pytest.raises(WeftError, match="is no metric"):
            parse_metric(wrong)
