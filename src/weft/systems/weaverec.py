"""WeaveRec (arXiv 2510.26546): train hybrid LoRA adapters on target + source, then merge.

    θ_0 on D_0;  θ_n on D_0 ∪ D_n for n = 1 … N;  θ = Σ λ_i θ_i  with Σ λ_i = 1

All branches start from the same LoRA initialisation. A hybrid of {a, b} is trained once and
serves both directions. A branch is decided by its own set of domains and nothing else, so adding
a source trains its hybrids only, and removing one trains nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from weft.artifacts.stages import Stage
from weft.systems.plan import Plan, Rows
from weft.systems.steps import merge_branches, tune_weights

FEATURED, BASELINE = "weaverec", "target-only"

CONTRASTS = (
    (FEATURED, "soup", "what other domains and the hybrids' longer training add beyond averaging"),
    (FEATURED, "soup, longer", "what other domains add beyond averaging and training longer"),
    (FEATURED, "target-only, longer", "beyond training as long as a hybrid"),
    (FEATURED, "all-data", "merging adapters against mixing data"),
    (FEATURED, "naive merge", "hybrid sources against pure ones"),
)
"""(row, against, what the difference tells): the questions that the controls are there for."""


@dataclass(frozen=True)
class WeaveRec:
    """The stages of one seed over the plan's domains."""

    plan: Plan
    seed: int

    def target_branch(self, target: str, *, longer: int = 1, twin: int = 0) -> Stage:
        """θ_0: LoRA on the target alone."""
        return self.plan.branch([target], self.seed, longer=longer, twin=twin)

    def hybrid_branch(self, target: str, source: str) -> Stage:
        """θ_n: LoRA on D_0 ∪ D_n."""
        return self.plan.branch([target, source], self.seed)

    def weave(self, target: str, sources: list[str], space: str) -> Stage:
        """θ = Σ λ_i θ_i over the target branch and every hybrid."""
        hybrids = [self.hybrid_branch(target, source) for source in sources]
        return self._merge(target, [self.target_branch(target), *hybrids], space)

    def rows(self, target: str) -> Rows:
        """Every row of the target's table: floors, the woven recommender, and its controls."""
        recipe, plan = self.plan.recipe, self.plan
        sources = [name for name in plan.domains if name != target]
        space = recipe.merge.space
        other = "factors" if space == "delta" else "delta"
        own = self.target_branch(target)
        rows: dict[str, tuple[str, Stage | None]] = {
            BASELINE: ("one adapter, trained on the target", own),
            FEATURED: (f"target and hybrid adapters merged ({space} space)",
                       self.weave(target, sources, space)),
        }  # fmt: skip
        if "soup" in recipe.controls:
            twins = [own, *(self.target_branch(target, twin=n + 1) for n in range(len(sources)))]
            rows["soup"] = (
                f"{len(twins)} target-only adapters that differ in seed, merged: averaging alone",
                self._merge(target, twins, space),
            )
        if "soup_longer" in recipe.controls:
            long = [self.target_branch(target, longer=2, twin=n) for n in range(len(sources))]
            about = (
                f"target-only and {len(long)} target-only of twice the steps, merged: averaging"
                " and a hybrid's training length without other domains"
            )
            rows["soup, longer"] = (about, self._merge(target, [own, *long], space))
        if "matched" in recipe.controls:
            rows["target-only, longer"] = (
                "twice the epochs: as many steps as a hybrid gets",
                self.target_branch(target, longer=2),
            )
        if "all_data" in recipe.controls:
            rows["all-data"] = ("one adapter on all domains' examples",
                                plan.branch(list(plan.domains), self.seed))  # fmt: skip
        if "naive" in recipe.controls:
            naive = [own, *(self.target_branch(source) for source in sources)]
            rows["naive merge"] = ("target and pure-source adapters merged",
                                   self._merge(target, naive, space))  # fmt: skip
        if "factors" in recipe.controls:
            rows[f"weaverec ({other})"] = (
                f"the same adapters merged in {other} space",
                self.weave(target, sources, other),
            )
        for source in sources if "sources" in recipe.controls else []:
            rows[f"source: {source}"] = ("adapter of that domain alone, used on the target",
                                         self.target_branch(source))  # fmt: skip
        for source in sources if "hybrids" in recipe.controls else []:
            rows[f"hybrid: {source}"] = ("one hybrid on its own",
                                         self.hybrid_branch(target, source))  # fmt: skip
        return rows

    def again(self, target: str) -> Rows:
        """The rows that are repeated with more seeds: what the claim rests on."""
        kept = (BASELINE, FEATURED, "soup", "soup, longer")
        return {name: row for name, row in self.rows(target).items() if name in kept}

    def _merge(self, target: str, parts: list[Stage], space: str) -> Stage:
        """Σ λ_i θ_i with λ uniform or, for every merge of the table alike, chosen by validation."""
        settings: dict[str, Any] = {"space": space, "weights": [1 / len(parts)] * len(parts)}
        parents = {f"part{i}": part for i, part in enumerate(parts)}
        if self.plan.recipe.merge.weights == "validation":
            settings["weights"] = None
            parents["weights"] = self._tuned(target, parts, space)
        what = " + ".join(part.label.removeprefix("train ") for part in parts)
        return Stage(merge_branches, settings, parents, f"merge for {target} ({space}): {what}")

    def _tuned(self, target: str, parts: list[Stage], space: str) -> Stage:
        settings = {
            **self.plan.scoring,
            "split": self.plan.recipe.evaluate.split,
            "space": space,
            "validation": self.plan.validation(self.plan.recipe.merge.validation_users, 5),
        }
        parents = {f"part{i}": part for i, part in enumerate(parts)}
        parents["domain"] = self.plan.domains[target]
        what = " + ".join(part.label.removeprefix("train ") for part in parts)
        return Stage(tune_weights, settings, parents, f"choose λ for {target} ({space}): {what}")
