"""WeaveRec as the runner sees it: rows, contrasts, and what each branch is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from weft.report.model import Branch, Table
from weft.stages.stage import Stage
from weft.systems.common_stages import branch_seed
from weft.systems.costs import Cost
from weft.systems.measured import Measured
from weft.systems.plan import Plan
from weft.systems.recipe import Recipe
from weft.systems.weaverec.algorithm import BASELINE, CONTRASTS, FEATURED, WeaveRec


def cost_of(row: str) -> Cost | None:
    """What a row costs. Merges with pure sources, a source alone, the other space and pairs are
    there to answer questions."""
    if row == BASELINE:
        return Cost.BRANCH
    if row in ("target-only, longer", "all-data") or row.startswith("hybrid: "):
        return Cost.LONGER
    if row in (FEATURED, "soup", "soup, longer") or row.startswith("hybrids, "):
        return Cost.MERGE
    return None


@dataclass(frozen=True)
class WeaveStudy:
    """The system of a WeaveRec recipe."""

    plan: Plan
    recipe: Recipe

    title = "WeaveRec"
    baseline = BASELINE
    featured = FEATURED
    contrasts = CONTRASTS

    def further(self) -> list[Stage]:
        return []

    def tables(self, run: Path, timings: Mapping[str, float]) -> list[Table]:
        return []

    def notes(self, run: Path) -> list[str]:
        small = self.recipe.small_defaults()
        if not small:
            return []
        words = ", ".join(small)
        note = (
            f"Small by default, so that a run ends soon: {words}. More of each, set in the recipe, "
        )
        return [note + "gives better recommenders and surer numbers."]

    def said(self) -> str:
        branches = self.recipe.branches
        return (
            f"{branches.examples:,} examples per domain × {branches.epochs} "
            f"epoch{'s' * (branches.epochs > 1)}, batch {branches.batch}, "
            f"LoRA rank {branches.lora.rank}"
        )

    def measured(self) -> list[Measured]:
        """Every row of every target's table, floors first."""
        recipe, plan = self.recipe, self.plan
        out: list[Measured] = []
        woven = WeaveRec(plan, recipe.seed)
        for spec in recipe.domains:
            if not spec.target:
                continue
            target = spec.name
            again = [WeaveRec(plan, seed).again(target) for seed in spec.seeds]
            floor = plan.evaluation(target, "popularity", None, "popularity")
            zero = plan.evaluation(target, "zero-shot", None)
            out.append(
                Measured(
                    target, "popularity", "most bought first; not learned", None, [floor],
                    cost=Cost.COUNTS,
                )
            )  # fmt: skip
            out.append(
                Measured(
                    target, "zero-shot", "the backbone, untrained", None, [zero],
                    cost=Cost.BACKBONE,
                )
            )  # fmt: skip
            out.extend(self._ranked_otherwise(target, "zero-shot", None))
            for row, (about, adapter) in woven.rows(target).items():
                repeated = [rows[row][1] for rows in again if row in rows]
                seeds = spec.seeds if repeated else ()
                evaluations = [
                    plan.evaluation(target, row, stage, seed=seed)
                    for seed, stage in zip((recipe.seed, *seeds), [adapter, *repeated], strict=True)
                ]
                published = row in (BASELINE, FEATURED)
                out.append(
                    Measured(
                        target, row, about, adapter, evaluations, seeds, published, cost_of(row)
                    )
                )
                if row == FEATURED:
                    out.extend(self._ranked_otherwise(target, row, adapter))
        return out

    def _ranked_otherwise(self, target: str, row: str, adapter: Stage | None) -> Iterator[Measured]:
        """A row for each of the recipe's `rankers`: the same weights, asked in another way.

        One of another kind asks the backbone only: adapters were trained on the recipe's own prompt.
        """
        recipe, plan = self.recipe, self.plan
        for changes in recipe.rankers:
            scorer = recipe.ranker(changes)
            if adapter is not None and scorer.kind != recipe.recommender.kind:
                continue
            said = ", ".join(
                k if v is True else str(v) if k in ("kind", "ranker") else f"{k} {v}"
                for k, v in changes.items()
            )
            stage = plan.evaluation(target, f"{row} ({said})", adapter, scorer=scorer)
            yield Measured(
                target, f"{row} ({said})", f"the same weights, asked {said}", adapter, [stage]
            )

    def branch(self, stage: Stage) -> Branch:
        """What kind of branch it is; target-only and hybrids of the recipe's own seed are shown."""
        recipe = self.recipe
        domains = [parent.settings["name"] for parent in stage.parents.values()]
        seeds = {recipe.seed, *(seed for spec in recipe.domains for seed in spec.seeds)}
        if stage.settings["seed"] not in {branch_seed(seed, domains) for seed in seeds}:
            return Branch(domains=domains, kind="soup's twins", shown=False)
        if stage.settings["train"]["epochs"] > recipe.branches.epochs:
            kind = f"{BASELINE}, longer"
        else:
            kind = {1: BASELINE, 2: "hybrid"}.get(len(domains), "all-data")
        if stage.settings["seed"] != branch_seed(recipe.seed, domains):
            return Branch(domains=domains, kind=f"{kind}, more seeds", shown=False)
        return Branch(domains=domains, kind=kind, shown=kind in (BASELINE, "hybrid"))
