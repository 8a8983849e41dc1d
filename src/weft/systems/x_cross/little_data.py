"""The study of little data (X-Cross, §4.3 and §4.6): how many examples of the target it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from weft.evaluation.compare import ALPHA, Comparison, compare, estimate, holm
from weft.evaluation.result import Result
from weft.report.format import number, p_value, signed
from weft.report.model import ReportTable
from weft.stages.stage import Stage
from weft.systems.stages.evaluation import EvaluationStage
from weft.systems.stages.weights import WeightsStage
from weft.systems.x_cross.recipe import BASELINE, BEST, FEATURED, LittleDataSettings
from weft.systems.x_cross.stages import TrainIntegrator

METRIC = "hit@1"
METHODS = (FEATURED, BASELINE)


@dataclass(frozen=True)
class Trial:
    """One method trained on one subset of a target's examples, and measured."""

    target: str
    method: str
    examples: int
    weights: WeightsStage
    evaluation: EvaluationStage


@dataclass(frozen=True)
class LittleData:
    """X-Cross and a new adapter, each on drawn subsets of some sizes, against the best source."""

    settings: LittleDataSettings
    holdout: int  # validation users of the target by which sources were chosen
    best_source: Mapping[str, EvaluationStage]  # target -> of the best source as it is
    trials: Sequence[Trial]

    def stages(self) -> list[Stage]:
        return [*self.best_source.values(), *(trial.evaluation for trial in self.trials)]

    def tables(self, run: Path) -> list[ReportTable]:
        return [*(self._table(target, run) for target in self.best_source), *self._regression(run)]

    def _of(self, target: str, method: str, examples: int) -> list[Trial]:
        """The trials of one size, one of each subset."""
        wanted = (target, method, examples)
        return [one for one in self.trials if (one.target, one.method, one.examples) == wanted]

    def _table(self, target: str, run: Path) -> ReportTable:
        reference = self.best_source[target].result(run)
        results = {
            size: {
                method: [one.evaluation.result(run) for one in self._of(target, method, size)]
                for method in METHODS
            }
            for size in self.settings.examples
        }
        pairs = [compare(of[FEATURED], of[BASELINE], [METRIC])[0] for of in results.values()]
        corrected = holm([one.p_t for one in pairs])
        lead = 0
        lines = []
        for (size, of), pair, p in zip(results.items(), pairs, corrected, strict=True):
            if pair.difference > 0 and p <= ALPHA:
                lead = size
            lines.append([self._size(target, size, run), *_cells(of, reference, pair, p)])
        return ReportTable(
            title=f"Little data: {target}",
            about=self._about(results, reference, lead),
            header=[
                "examples", *METHODS, f"{FEATURED} − {BASELINE}", "p (Holm)",
                *(f"{method} − {BEST}" for method in METHODS),
            ],
            rows=lines,
        )  # fmt: skip

    def _about(
        self, results: Mapping[int, Mapping[str, list[Result]]], reference: Result, lead: int
    ) -> str:
        best = float(reference.values(METRIC).mean())
        exceeds = {}
        for method in METHODS:
            sizes = [
                size for size, of in results.items() if estimate(of[method], METRIC).mean > best
            ]
            exceeds[method] = f"{sizes[0]:,} examples" if sizes else "none of these"
        return (
            f"Hit@1, mean over {self.settings.subsets} drawn subsets (least to most), on the "
            f"{reference.protocol.users:,} test users; tests are paired t-tests over users, of each "
            f"user's mean over subsets, in brackets after Holm's correction over the sizes. The best "
            f"source, zero-shot, has {number(best)}: {FEATURED} first exceeds it with "
            f"{exceeds[FEATURED]}, {BASELINE} with {exceeds[BASELINE]}. The largest size at which "
            f"{FEATURED} is significantly ahead of {BASELINE} is "
            f"{f'{lead:,}' if lead else 'none'}. Its sources were chosen with the targets of "
            f"{self.holdout:,} validation users, which {BASELINE} has no use for."
        )

    def _size(self, target: str, size: int, run: Path) -> str:
        """A size, and how many examples there were if there were fewer."""
        first = self._of(target, FEATURED, size)[0].weights
        assert isinstance(first, TrainIntegrator)
        there = first.facts(run).examples
        return f"{size:,}" + (f" (all {there:,})" if there < size else "")

    def _regression(self, run: Path) -> list[ReportTable]:
        """Accuracy on mean and standard deviation of prompt length, over targets × subsets (§4.6)."""
        if len(self.best_source) < 4:  # three coefficients pass through three domains' means
            return []
        size, count = self.settings.examples[-1], len(self.best_source)
        points = []
        for target in self.best_source:
            for trial in self._of(target, FEATURED, size):
                assert isinstance(trial.weights, TrainIntegrator)
                facts = trial.weights.facts(run)
                hit = 100 * float(trial.evaluation.result(run).values(METRIC).mean())
                points.append((facts.mean_tokens, facts.tokens_deviation, hit))
        data = np.array(points)
        raw, fit = least_squares(data[:, :2], data[:, 2])
        spread = data.std(axis=0)
        standard = raw[1:] * spread[:2] / spread[2] if spread[2] else np.zeros(2)
        names = ("mean length", "standard deviation")
        return [
            ReportTable(
                title="Prompt length and accuracy",
                about=f"Least squares over {len(data)} trainings ({count} targets × "
                f"{self.settings.subsets} subsets of {size:,}): Hit@1 (in percent) on mean and "
                f"standard deviation of the training prompts' tokens. R² {fit:.2f}, constant "
                f"{raw[0]:.2f}. Lengths differ little within a domain, so this is three coefficients "
                f"for {count} means: R² is high by construction, and a coefficient mostly tells "
                "domains apart.",
                header=["tokens", "percent per token", "standardised"],
                rows=[
                    [name, f"{coefficient:+.3f}", f"{alike:+.2f}"]
                    for name, coefficient, alike in zip(
                        names, raw[1:].tolist(), standard.tolist(), strict=True
                    )
                ],
            )
        ]


def _cells(
    results: Mapping[str, list[Result]], reference: Result, pair: Comparison, p: float
) -> list[str]:
    """A size's line: both methods, their difference, and each against the best source."""
    against = [
        compare(of, [reference] * len(of), [METRIC])[0]
        for of in (results[method] for method in METHODS)
    ]
    return [
        *(
            f"{number(estimate(results[method], METRIC).mean)} ({_range(results[method])})"
            for method in METHODS
        ),
        f"{signed(pair.difference)} [{signed(pair.low)}, {signed(pair.high)}]",
        f"{p_value(pair.p_t)} ({p_value(p)})",
        *(f"{signed(one.difference)} (p {p_value(one.p_t)})" for one in against),
    ]


def _range(results: Sequence[Result]) -> str:
    means = [float(result.values(METRIC).mean()) for result in results]
    return f"{number(min(means))}–{number(max(means))}"


def least_squares(
    x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Ordinary least squares with a constant, of y [n] on x [n, k].

    Returns the constant and the coefficients, float64 [1 + k], and R².

    >>> beta, fit = least_squares(np.array([[1.0], [2.0], [3.0]]), np.array([3.0, 5.0, 7.0]))
    >>> beta.round(6).tolist(), round(fit, 6)
    ([1.0, 2.0], 1.0)
    """
    design = np.column_stack([np.ones(len(x)), x])
    beta: NDArray[np.float64] = np.linalg.lstsq(design, y, rcond=None)[0].astype(np.float64)
    left, around = y - design @ beta, y - y.mean()
    whole = float(around @ around)
    return beta, 1 - float(left @ left) / whole if whole else 0.0
