"""The study of little data (X-Cross, §4.3 and §4.6): how many examples of the target it takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from weft.artifacts.atomic import read_json
from weft.evaluation.compare import ALPHA, compare, estimate, holm
from weft.evaluation.result import Result
from weft.recommenders.integrator_folder import SAID
from weft.report.format import number, p_value, signed
from weft.report.model import Table
from weft.stages.stage import Stage
from weft.systems.common_stages import INTEGRATOR
from weft.systems.x_cross.algorithm import BASELINE, FEATURED, XCross
from weft.systems.x_cross.recipe import Limited
from weft.systems.x_cross.stages import PROMPTS
from weft.training.batches import seed_of

METRIC = "hit@1"
METHODS = (FEATURED, BASELINE)


@dataclass(frozen=True)
class LimitedStudy:
    """X-Cross and a new adapter, each on drawn subsets of some sizes, against the best source."""

    system: XCross
    said: Limited
    every: list[str]

    @property
    def targets(self) -> list[str]:
        return [t for t in self.every if self.said.targets is None or t in self.said.targets]

    def stages(self) -> list[Stage]:
        references = [self._reference(target) for target in self.targets]
        return references + [
            self._evaluation(target, method, size, subset)
            for target in self.targets
            for size in self.said.examples
            for subset in range(self.said.subsets)
            for method in METHODS
        ]

    def _trained(self, target: str, method: str, size: int, subset: int) -> Stage:
        """One training; the subsets of one number are nested: a size holds the smaller ones."""
        draw = seed_of(self.system.recipe.seed, "subset", subset)
        of = f"{size:,}, subset {subset + 1}"
        if method == FEATURED:
            return self.system.integrated(
                target,
                self.system.recipe.x_cross,
                examples=size,
                epochs=self.said.epochs,
                draw=draw,
                said=f"{FEATURED} on {of}",
            )
        return self.system.new_adapter(
            target, examples=size, epochs=self.said.epochs, draw=draw, said=f", subset {subset + 1}"
        )

    def _evaluation(self, target: str, method: str, size: int, subset: int) -> Stage:
        trained = self._trained(target, method, size, subset)
        row = f"{method} ({size:,}, subset {subset + 1})"
        return self.system.plan.evaluation(target, row, trained, users=self.said.users)

    def _reference(self, target: str) -> Stage:
        """The best source as it is, on the same users."""
        return self.system.best_source(target, self.said.users)

    def _results(self, target: str, method: str, size: int, run: Path) -> list[Result]:
        return [
            Result.load(self._evaluation(target, method, size, i).folder(run) / "result")
            for i in range(self.said.subsets)
        ]

    def tables(self, run: Path) -> list[Table]:
        made = [self._table(target, run) for target in self.targets]
        return [*made, *self._regression(run)]

    def _table(self, target: str, run: Path) -> Table:
        reference = Result.load(self._reference(target).folder(run) / "result")
        best = float(reference.values(METRIC).mean())
        lines, lead, first = [], 0, dict.fromkeys(METHODS, 0)
        every = {
            size: {method: self._results(target, method, size, run) for method in METHODS}
            for size in self.said.examples
        }
        pairs = [compare(r[FEATURED], r[BASELINE], [METRIC])[0] for r in every.values()]
        corrected = holm([one.p_t for one in pairs])
        for (size, results), one, p in zip(every.items(), pairs, corrected, strict=True):
            means = {m: estimate(found, METRIC) for m, found in results.items()}
            against = [
                compare(found, [reference] * len(found), [METRIC])[0] for found in results.values()
            ]
            if one.difference > 0 and p <= ALPHA:
                lead = size
            for method in METHODS:
                if not first[method] and means[method].mean > best:
                    first[method] = size
            lines.append(
                [
                    self._had(target, size, run),
                    *(f"{number(means[m].mean)} ({_range(results[m])})" for m in METHODS),
                    f"{signed(one.difference)} [{signed(one.low)}, {signed(one.high)}]",
                    f"{p_value(one.p_t)} ({p_value(p)})",
                    *(f"{signed(two.difference)} (p {p_value(two.p_t)})" for two in against),
                ]
            )
        beats = {m: f"{size:,} examples" if size else "none of these" for m, size in first.items()}
        return Table(
            title=f"Little data: {target}",
            about=f"Hit@1, mean over {self.said.subsets} drawn subsets (least to most), on the "
            f"{reference.protocol.users:,} test users; tests are paired t-tests over users, of each "
            f"user's mean over subsets, in brackets after Holm's correction over the sizes. The best "
            f"source, zero-shot, has {number(best)}: {FEATURED} first exceeds it with "
            f"{beats[FEATURED]}, {BASELINE} with {beats[BASELINE]}. The largest size at which {FEATURED}"
            f" is significantly ahead of {BASELINE} is {f'{lead:,}' if lead else 'none'}. Its sources "
            f"were chosen with the targets of {self.system.recipe.sources.holdout:,} validation users, "
            f"which {BASELINE} has no use for.",
            header=[
                "examples", *METHODS, f"{FEATURED} − {BASELINE}", "p (Holm)",
                *(f"{m} − best source" for m in METHODS),
            ],
            rows=lines,
        )  # fmt: skip

    def _had(self, target: str, size: int, run: Path) -> str:
        """A size, and how many examples there were if there were fewer."""
        folder = self._trained(target, FEATURED, size, 0).folder(run)
        had = read_json(folder / INTEGRATOR / SAID)["examples"]
        return f"{size:,}" + (f" (all {had:,})" if had < size else "")

    def _regression(self, run: Path) -> list[Table]:
        """Accuracy on mean and standard deviation of prompt length, over targets × subsets (§4.6)."""
        size = self.said.examples[-1]
        found = []
        for target in self.targets:
            results = self._results(target, FEATURED, size, run)
            for subset, result in enumerate(results):
                trained = self._trained(target, FEATURED, size, subset).folder(run)
                prompts = read_json(trained / PROMPTS)
                hit = 100 * float(result.values(METRIC).mean())
                found.append((prompts["mean"], prompts["sd"], hit))
        data = np.array(found)
        if len(self.targets) < 4:  # three coefficients pass through three domains' means
            return []
        raw, fit = least_squares(data[:, :2], data[:, 2])
        spread = data.std(axis=0)
        standard = raw[1:] * spread[:2] / spread[2] if spread[2] else np.zeros(2)
        names = ("mean length", "standard deviation")
        return [
            Table(
                title="Prompt length and accuracy",
                about=f"Least squares over {len(data)} trainings ({len(self.targets)} targets × "
                f"{self.said.subsets} subsets of {size:,}): Hit@1 (in percent) on mean and standard "
                f"deviation of the training prompts' tokens. R² {fit:.2f}, constant {raw[0]:.2f}. "
                f"Lengths differ little within a domain, so this is three coefficients for "
                f"{len(self.targets)} means: R² is high by construction, and a coefficient mostly tells "
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


def least_squares(
    x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Ordinary least squares with a constant: (constant and coefficients [1 + k], R²)."""
    design = np.column_stack([np.ones(len(x)), x])
    beta: NDArray[np.float64] = np.linalg.lstsq(design, y, rcond=None)[0].astype(np.float64)
    left, around = y - design @ beta, y - y.mean()
    whole = float(around @ around)
    return beta, 1 - float(left @ left) / whole if whole else 0.0


def _range(results: list[Result]) -> str:
    means = [float(result.values(METRIC).mean()) for result in results]
    return f"{number(min(means))}–{number(max(means))}"
