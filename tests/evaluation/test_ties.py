"""A tied target gets the mean of each metric over all orders of its tie."""

from __future__ import annotations

import itertools
from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from worlds import Fixed, domain, last_items, old_result, result

from weft.errors import WeftError
from weft.evaluation.candidates import CandidateSettings
from weft.evaluation.compare import compare
from weft.evaluation.evaluate import evaluate
from weft.evaluation.metrics import METRICS
from weft.evaluation.protocol import EvaluationSettings, Protocol
from weft.evaluation.ranks import TargetPlaces, target_places

GAIN = {"ndcg": lambda r: 1 / log2(1 + r), "mrr": lambda r: 1 / r, "hit": lambda r: 1.0}


def over_orders(scores: list[float], target: int, kind: str, k: int) -> float:
    """The mean of a metric over every order that the scores allow, one by one."""
    values = []
    for order in itertools.permutations(range(len(scores))):
        ranked = sorted(range(len(scores)), key=lambda i: (-scores[i], order[i]))
        rank = 1 + ranked.index(target)
        values.append(GAIN[kind](rank) if rank <= k else 0.0)
    return float(np.mean(values))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 2).map(float), min_size=1, max_size=6),
    st.integers(0, 5),
    st.integers(1, 8),
    st.sampled_from(sorted(GAIN)),
)
def test_the_closed_form_is_the_mean_over_all_orders(
    scores: list[float], target: int, k: int, kind: str
) -> None:
    target %= len(scores)
    places = target_places(np.array([scores]), np.array([target]))
    found = places.expectation(METRICS[kind], k)
    assert found[0] == pytest.approx(over_orders(scores, target, kind, k), abs=1e-12)


@given(
    arrays(np.int64, 12, elements=st.integers(0, 500)),
    arrays(np.int64, 12, elements=st.integers(0, 500)),
    st.one_of(st.integers(1, 1200), st.just(10**12)),
)
def test_many_targets_at_once_agree_with_a_plain_loop(
    above: np.ndarray, level: np.ndarray, k: int
) -> None:
    places = TargetPlaces(above, level)
    for kind, gain in GAIN.items():
        found = places.expectation(METRICS[kind], k)
        for row in range(12):
            ranks = range(int(above[row]) + 1, int(above[row] + level[row]) + 2)
            naive = sum(gain(r) for r in ranks if r <= k) / len(ranks)
            assert found[row] == pytest.approx(naive, rel=1e-9, abs=1e-12)
    hits = np.clip((k - above) / (level + 1), 0, 1)
    assert places.expectation(METRICS["hit"], k) == pytest.approx(hits)


@given(arrays(np.int64, 9, elements=st.integers(0, 40)), st.integers(1, 50))
def test_without_a_tie_it_is_the_metric_at_the_rank_to_the_bit(above: np.ndarray, k: int) -> None:
    places = TargetPlaces(above, np.zeros(9, dtype=np.int64))
    mixed = TargetPlaces(np.append(above, 3), np.append(places.level, 5))
    for function in METRICS.values():
        alone = function(above + 1.0, k)
        assert (places.expectation(function, k) == alone).all()
        assert (mixed.expectation(function, k)[:9] == alone).all()


def test_masked_items_leave_the_tie() -> None:
    scores = np.array([[3.0, 3.0, 3.0, 5.0, 1.0]])
    every = target_places(scores, np.array([0]))
    masked = target_places(scores, np.array([0]), [np.array([0, 1, 3])])
    assert (every.above[0], every.level[0]) == (1, 2)
    assert (masked.above[0], masked.level[0]) == (0, 1)
    assert masked.expectation(METRICS["hit"], 1)[0] == 0.5


def test_a_scorer_that_knows_nothing_scores_as_chance_does() -> None:
    """30 candidates level with each other: hit@k is k / 30, not all or nothing at rank 15.5."""
    examples = last_items(domain(items=200))
    settings = EvaluationSettings(candidates=CandidateSettings(drawn=29), at=(1, 10, 15, 30))
    found = evaluate(Fixed(np.zeros(200, dtype=np.float32)), examples, settings).metrics()
    for k in (1, 10, 15, 30):
        assert found[f"hit@{k}"] == pytest.approx(k / 30)
        assert found[f"full/recall@{k}"] == pytest.approx(k / 200)
    chance = np.mean([1 / log2(1 + r) if r <= 10 else 0 for r in range(1, 31)])
    assert found["ndcg@10"] == pytest.approx(chance)


def test_older_results_compute_what_they_did() -> None:
    old = old_result([1.0, 2.5, 5.5, 31 / 2])
    assert old.values("ndcg@5").tolist() == pytest.approx([1.0, 1 / log2(3.5), 0.0, 0.0])
    assert old.values("hit@1").tolist() == [1, 0, 0, 0]
    assert old.ranks(False).tolist() == [1.0, 2.5, 5.5, 15.5]
    again = old_result([1.0, 2.5, 5.5, 15.5])
    assert compare(old, again, ["ndcg@5"])[0].difference == 0
    with pytest.raises(WeftError, match="holds mean ranks"):
        old.places(False)


def test_the_two_rules_are_not_compared() -> None:
    old, new = old_result([1.0, 2.0, 3.0]), result([1.0, 2.0, 3.0])
    sentence = (
        "'a' and 'b' can't be compared: 'a' is of an older weft, which took a metric at the mean "
        r"rank of a tie, 'b' has its mean .* measure 'a' again with this weft \(weft evaluate"
    )
    with pytest.raises(WeftError, match=sentence):
        compare(old, new)
    with pytest.raises(WeftError, match="measure 'b' again"):
        compare(new, old)


def test_the_rule_is_part_of_what_a_stage_is_keyed_by() -> None:
    """So that what an older weft measured is not taken for what this one would."""
    assert EvaluationSettings().model_dump(mode="json")["ties"] == "expected metric"
    assert Protocol.model_fields["ties"].default == "expected metric"
