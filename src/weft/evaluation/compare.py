"""Two results of one protocol, paired by user: is the difference more than chance?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from weft.errors import DataError, MismatchError, NotFoundError, SettingError
from weft.evaluation.protocol import Protocol, differences
from weft.evaluation.result import Result, metric_names

LEVEL = 0.95
ALPHA = 0.05

# Which metrics were printed changes no rank; a metric's own cut-off is in its name.
_HARMLESS = frozenset({"at", "full"})
# Runs of several seeds may differ in these and still measure the same thing.
_SEEDED = frozenset({"seed", "candidates_hash"})

Runs = Result | Sequence[Result]
"""One result, or several of one recipe and different seeds: then each user's mean counts."""


@dataclass(frozen=True)
class Estimate:
    """A mean over users and its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """`a` minus `b` on one metric, paired over users."""

    metric: str
    users: int
    a: float
    b: float
    difference: float
    low: float  # 95 % interval of the difference
    high: float
    p_t: float  # paired t-test, two-sided
    p_wilcoxon: float  # Wilcoxon signed-rank test, two-sided
    p_holm: float  # p_t after Holm's correction over the whole table

    @property
    def verdict(self) -> str:
        return verdict(self.difference, self.p_holm)


@dataclass(frozen=True)
class Spread:
    """One metric over runs that differ in their seed."""

    seeds: int
    mean: float
    sd: float  # of a single run (n − 1); 0 for one run
    low: float  # the smallest and the largest run
    high: float


def verdict(difference: float, p_holm: float) -> str:
    """`gain`, `loss` (negative transfer) or `unclear`: no significant difference at the 5 % level.

    >>> verdict(0.02, p_holm=0.001), verdict(-0.02, p_holm=0.001), verdict(0.02, p_holm=0.3)
    ('gain', 'loss', 'unclear')
    """
    if p_holm >= ALPHA or difference == 0:
        return "unclear"
    return "gain" if difference > 0 else "loss"


def compare(
    a: Runs,
    b: Runs,
    metrics: Sequence[str] | None = None,
    *,
    bootstrap: int = 0,
    seed: int = 0,
) -> list[Comparison]:
    """`a` − `b` for each metric (default: all that both have), Holm-corrected over the metrics.

    The interval is Student's on the paired differences, or with `bootstrap` > 0 the
    percentiles of that many resamplings of users. Unlike protocols are a `MismatchError`.

    >>> from weft.data.mall import mall
    >>> from weft.data.splits import leave_one_out
    >>> from weft.evaluation.evaluate import evaluate
    >>> from weft.evaluation.protocol import EvaluationSettings
    >>> class Fixed:
    ...     def __init__(self, scores):
    ...         self.scores = np.asarray(scores, dtype=np.float32)
    ...     def score(self, histories, candidates=None):
    ...         return np.tile(self.scores, (len(histories), 1))
    >>> test = leave_one_out(mall(users=60, items=40)["toys"]).test
    >>> popular, alike = (
    ...     evaluate(Fixed(scores), test, EvaluationSettings(candidates=None, at=(5,)))
    ...     for scores in (np.bincount(test.targets, minlength=40), np.ones(40))
    ... )
    >>> [one] = compare(popular, alike, ["full/recall@5"])
    >>> round(one.a, 3), round(one.b, 3), one.p_holm < 0.05, one.verdict
    (0.3, 0.125, True, 'gain')
    """
    return compare_table({"a": a, "b": b}, "b", metrics, bootstrap=bootstrap, seed=seed)["a"]


def compare_table(
    results: Mapping[str, Runs],
    baseline: str,
    metrics: Sequence[str] | None = None,
    *,
    bootstrap: int = 0,
    seed: int = 0,
) -> dict[str, list[Comparison]]:
    """Every row but the baseline against the baseline; Holm's correction over all of it."""
    if baseline not in results:
        raise NotFoundError(f"the baseline '{baseline}' is not among {', '.join(results)}")
    base = results[baseline]
    metrics = list(metrics) if metrics else common_metrics(results)
    table: dict[str, list[Comparison]] = {}
    for name, runs in results.items():
        if name == baseline:
            continue
        _refuse_unlike(name, runs, baseline, base)
        row, against = _same_seeds(runs, base)
        table[name] = [_compare_one(row, against, metric, bootstrap, seed) for metric in metrics]
    corrected = iter(holm([one.p_t for row in table.values() for one in row]))
    return {
        name: [replace(one, p_holm=next(corrected)) for one in row] for name, row in table.items()
    }


def _same_seeds(a: Runs, b: Runs) -> tuple[Runs, Runs]:
    """As many runs on both sides: runs are listed in one order of seeds, and a mean over three
    against a single one would compare how often each was measured as well."""
    runs, others = _as_list(a), _as_list(b)
    count = min(len(runs), len(others))
    return runs[:count], others[:count]


def common_metrics(results: Mapping[str, Runs]) -> list[str]:
    """The metrics that every result reports, in the order of the first."""
    names = [metric_names(run.protocol) for runs in results.values() for run in _as_list(runs)]
    common = [name for name in names[0] if all(name in other for other in names[1:])]
    if not common:
        raise MismatchError(f"no metric is common to {', '.join(results)}")
    return common


def holm(p: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down adjusted p-values, in the order of `p`.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(np.asarray(p), kind="stable")
    out, highest = [0.0] * len(p), 0.0
    for step, index in enumerate(order.tolist()):
        highest = max(highest, min(1.0, (len(p) - step) * p[index]))
        out[index] = highest
    return out


def estimate(runs: Runs, metric: str) -> Estimate:
    """The mean of one metric over users with its 95 % interval (Student's)."""
    return _student(user_values(runs, metric))


def user_values(runs: Runs, metric: str) -> NDArray[np.float64]:
    """[users] float64, by user_id: the metric per user, averaged over the runs."""
    mean: NDArray[np.float64] = np.mean([run.values(metric) for run in _as_list(runs)], axis=0)
    return mean


def summarise_seeds(
    results: Sequence[Result], metrics: Sequence[str] | None = None
) -> dict[str, Spread]:
    """Mean and spread of each metric over runs with different seeds."""
    if not results:
        raise SettingError("no results to summarise over seeds")
    for other in results[1:]:
        _refuse("the first seed", results[0].protocol, "another", other.protocol, _SEEDED)
    names = list(metrics) if metrics else common_metrics({"the seeds": results})
    return {name: _spread([float(run.values(name).mean()) for run in results]) for name in names}


def _spread(means: list[float]) -> Spread:
    sd = float(np.std(means, ddof=1)) if len(means) > 1 else 0.0
    return Spread(len(means), float(np.mean(means)), sd, min(means), max(means))


def _compare_one(a: Runs, b: Runs, metric: str, bootstrap: int, seed: int) -> Comparison:
    values_a, values_b = user_values(a, metric), user_values(b, metric)
    delta = values_a - values_b
    interval = _student(delta)
    if bootstrap:
        interval = _bootstrapped(delta, bootstrap, seed)
    p_t, p_wilcoxon = _tests(delta)
    return Comparison(
        metric=metric,
        users=len(delta),
        a=float(values_a.mean()),
        b=float(values_b.mean()),
        difference=interval.mean,
        low=interval.low,
        high=interval.high,
        p_t=p_t,
        p_wilcoxon=p_wilcoxon,
        p_holm=p_t,
    )


def _student(values: NDArray[np.float64]) -> Estimate:
    from scipy import special

    n = len(values)
    if n < 2:
        raise DataError("an interval needs 2 users or more")
    mean = float(values.mean())
    half = special.stdtrit(n - 1, (1 + LEVEL) / 2) * values.std(ddof=1) / np.sqrt(n)
    return Estimate(mean, mean - float(half), mean + float(half))


def _bootstrapped(values: NDArray[np.float64], resamplings: int, seed: int) -> Estimate:
    generator = np.random.default_rng(seed)
    n = len(values)
    means = [values[generator.integers(0, n, n)].mean() for _ in range(resamplings)]
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return Estimate(float(values.mean()), low, high)


def _tests(delta: NDArray[np.float64]) -> tuple[float, float]:
    """Two-sided p of the paired t-test and of Wilcoxon's signed-rank test."""
    from scipy import stats

    if not delta.any():  # no user differs: no evidence of a difference
        return 1.0, 1.0
    p_wilcoxon = float(stats.wilcoxon(delta).pvalue)
    if np.ptp(delta) == 0:  # every user differs by the same: t is infinite
        return 0.0, p_wilcoxon
    return float(stats.ttest_1samp(delta, 0.0).pvalue), p_wilcoxon


def _refuse_unlike(name: str, a: Runs, other: str, b: Runs) -> None:
    first = _as_list(b)[0].protocol
    for run in _as_list(a):
        _refuse(name, run.protocol, other, first, _HARMLESS)
    for run in _as_list(b)[1:]:
        _refuse(other, run.protocol, other, first, _HARMLESS)


def _refuse(name: str, a: Protocol, other: str, b: Protocol, but: frozenset[str]) -> None:
    if a.ties != b.ties:
        old, new = (name, other) if a.ties == "expected rank" else (other, name)
        raise MismatchError(
            f"'{old}' and '{new}' can't be compared: '{old}' is of an older weft, which took a "
            "metric at the mean rank of a tie, "
            f"'{new}' has its mean over all orders of the tie; measure '{old}' again with this weft "
            "(weft evaluate, or weft run with its recipe)"
        )
    unlike = [field for field in differences(a, b) if field not in but]
    if unlike:
        pairs = [f"{field} ({getattr(a, field)} / {getattr(b, field)})" for field in unlike]
        raise MismatchError(
            f"'{name}' and '{other}' were measured under different protocols and can't be "
            f"compared; they differ in {', '.join(pairs)}"
        )


def _as_list(runs: Runs) -> list[Result]:
    results = [runs] if isinstance(runs, Result) else list(runs)
    if not results:
        raise SettingError("an empty list of results can't be compared")
    return results
