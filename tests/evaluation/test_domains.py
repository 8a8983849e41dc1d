"""Means over domains, and both ways to treat histories in one pass."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from worlds import Fixed, domain, last_items, result

from weft.errors import WeftError
from weft.evaluation.candidates import CandidateSettings
from weft.evaluation.domains import compare_over_domains, mean_over_domains
from weft.evaluation.evaluate import evaluate, evaluate_both
from weft.evaluation.protocol import EvaluationSettings


def test_both_results_are_those_of_two_evaluations() -> None:
    examples = last_items(domain())
    scorer = Fixed(np.random.default_rng(1).integers(0, 40, 120).astype(np.float32))
    settings = EvaluationSettings(
        candidates=CandidateSettings(drawn=9), seed=5, mask_history="both"
    )
    for found, mask in zip(evaluate_both(scorer, examples, settings), (False, True), strict=True):
        alone = evaluate(scorer, examples, settings.model_copy(update={"mask_history": mask}))
        assert found.frame.equals(alone.frame)
        assert found.protocol == alone.protocol
    with pytest.raises(WeftError, match="evaluate_both"):
        evaluate(scorer, examples, settings)


def test_each_domain_counts_alike() -> None:
    many, few = result([1.0] * 90 + [20.0] * 10), result([20.0] * 5)
    assert mean_over_domains([many, few], "hit@10").mean == pytest.approx(0.45)


def test_one_domain_is_the_paired_t_test() -> None:
    random = np.random.default_rng(0)
    a, b = (result(random.integers(1, 30, 200).astype(float).tolist()) for _ in range(2))
    found = compare_over_domains([a], [b], "ndcg@10")
    wanted = stats.ttest_rel(a.values("ndcg@10"), b.values("ndcg@10"))
    low, high = wanted.confidence_interval(0.95)
    assert found.p == pytest.approx(float(wanted.pvalue))
    assert (found.low, found.high) == (pytest.approx(float(low)), pytest.approx(float(high)))


def test_strata_of_one_size_have_welchs_variance() -> None:
    """By hand: the mean of two means has a quarter of the sum of their variances."""
    random = np.random.default_rng(1)
    pairs = [
        tuple(result(random.integers(1, 30, n).astype(float).tolist()) for _ in range(2))
        for n in (120, 40)
    ]
    found = compare_over_domains([a for a, _ in pairs], [b for _, b in pairs], "hit@10")
    gaps = [a.values("hit@10") - b.values("hit@10") for a, b in pairs]
    parts = [gap.var(ddof=1) / len(gap) / 4 for gap in gaps]
    freedom = sum(parts) ** 2 / sum(p**2 / (len(g) - 1) for p, g in zip(parts, gaps, strict=True))
    mean, error = np.mean([gap.mean() for gap in gaps]), np.sqrt(sum(parts))
    assert found.difference == pytest.approx(mean)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(mean) / error, freedom))
    assert found.high - mean == pytest.approx(stats.t.ppf(0.975, freedom) * error)


def test_equal_results_differ_by_nothing() -> None:
    one = result([1.0, 5.0, 30.0])
    found = compare_over_domains([one, one], [one, one], "hit@10")
    assert (found.difference, found.p, found.relative) == (0.0, 1.0, 0.0)
