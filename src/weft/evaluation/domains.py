"""Means over several domains, each of which counts alike however many users it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from weft.evaluation.compare import LEVEL, Estimate, Runs, compare, user_values


@dataclass(frozen=True)
class OverDomains:
    """`a` minus `b`, means over the domains; users are paired within each domain."""

    a: float
    b: float
    difference: float
    low: float  # 95 % interval of the difference
    high: float
    p: float  # two-sided

    @property
    def relative(self) -> float:
        """The difference as a share of `b`; NaN where `b` is 0."""
        return self.difference / self.b if self.b else float("nan")


def mean_over_domains(runs: Sequence[Runs], metric: str) -> Estimate:
    """The mean over domains of their users' means, with its 95 % interval."""
    mean, half, _ = _stratified([user_values(one, metric) for one in runs])
    return Estimate(mean, mean - half, mean + half)


def compare_over_domains(a: Sequence[Runs], b: Sequence[Runs], metric: str) -> OverDomains:
    """`a` − `b` over domains, in the same order, by the stratified paired t-test: the variance of
    the mean is the sum of the domains' own, degrees of freedom after Welch and Satterthwaite.

    Unlike protocols are a `MismatchError`.
    """
    for one, other in zip(a, b, strict=True):
        compare(one, other, [metric])  # refuses what can't be paired
    first = [user_values(one, metric) for one in a]
    second = [user_values(one, metric) for one in b]
    mean, half, p = _stratified([x - y for x, y in zip(first, second, strict=True)])
    means = [float(np.mean([v.mean() for v in values])) for values in (first, second)]
    return OverDomains(means[0], means[1], mean, mean - half, mean + half, p)


def _stratified(values: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """(mean of the strata's means, half of its 95 % interval, two-sided p that it is 0)."""
    from scipy import special

    mean = float(np.mean([one.mean() for one in values]))
    parts = np.array([one.var(ddof=1) / len(one) for one in values]) / len(values) ** 2
    variance = float(parts.sum())
    if variance == 0:
        return mean, 0.0, 1.0 if mean == 0 else 0.0
    freedom = variance**2 / sum(p**2 / (len(v) - 1) for p, v in zip(parts, values, strict=True))
    error = float(np.sqrt(variance))
    half = float(special.stdtrit(freedom, (1 + LEVEL) / 2)) * error
    return mean, half, float(2 * special.stdtr(freedom, -abs(mean) / error))
