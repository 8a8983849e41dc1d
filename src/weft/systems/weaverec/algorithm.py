"""WeaveRec (arXiv 2510.26546): train hybrid LoRA adapters on target + source, then merge.

    θ_0 on D_0;  θ_n on D_0 ∪ D_n for n = 1 … N;  θ = Σ λ_i θ_i  with Σ λ_i = 1

All branches start from the same LoRA initialisation. A hybrid of {a, b} is trained once and
serves both directions. A branch is decided by its own set of domains and nothing else, so adding
a source trains its hybrids only, and removing one trains nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from weft.errors import WeftError
from weft.merging.methods import make_method, method_options
from weft.stages.stage import Stage
from weft.systems.common_stages import merge_branches, tune_weights, tuning_grid
from weft.systems.merge_stages import count_items, learn_weights, merge_weights, tune_checkpoints
from weft.systems.plan import Plan, Rows
from weft.systems.recipe import LEARNED, Merging, Recipe
from weft.systems.rehearsal import Kind, rehearse
from weft.systems.rows import merge_names, merge_words
from weft.systems.weaverec.adamerging_stage import learn_merge_weights
from weft.training.batches import seed_of

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

    @property
    def recipe(self) -> Recipe:
        assert isinstance(self.plan.recipe, Recipe)
        return self.plan.recipe

    def target_branch(self, target: str, *, longer: int = 1, twin: int = 0) -> Stage:
        """θ_0: LoRA on the target alone."""
        return self.plan.branch([target], self.seed, longer=longer, twin=twin)

    def hybrid_branch(self, target: str, source: str) -> Stage:
        """θ_n: LoRA on D_0 ∪ D_n."""
        return self.plan.branch([target, source], self.seed)

    def hybrids(self, target: str) -> list[Stage]:
        """The target's own branch, then a hybrid with each source."""
        sources = self._sources(target)
        return [self.target_branch(target), *(self.hybrid_branch(target, s) for s in sources)]

    def pure(self, target: str) -> list[Stage]:
        """The target's own branch, then each source's: the naive parts of a merge."""
        return [self.target_branch(target), *map(self.target_branch, self._sources(target))]

    def weave(self, target: str) -> Stage:
        """θ = Σ λ_i θ_i over the target branch and every hybrid."""
        return self._merge(target, self.hybrids(target), self.recipe.merge)

    def rows(self, target: str) -> Rows:
        """Every row of the target's table: floors, the woven recommender, and its controls."""
        recipe, merge, sources = self.recipe, self.recipe.merge, self._sources(target)
        own = self.target_branch(target)
        rows: dict[str, tuple[str, Stage | None]] = {
            BASELINE: ("one adapter, trained on the target", own),
            FEATURED: (
                f"target and hybrid adapters merged ({merge_words(merge)})",
                self.weave(target),
            ),
        }
        rows |= self._soups(target)
        if "matched" in recipe.controls:
            about = "twice the epochs: as many steps as a hybrid gets"
            rows["target-only, longer"] = (about, self.target_branch(target, longer=2))
        if "all_data" in recipe.controls:
            everything = self.plan.branch(list(self.plan.domains), self.seed)
            rows["all-data"] = ("one adapter on all domains' examples", everything)
        if "naive" in recipe.controls:
            about = "target and pure-source adapters merged"
            rows["naive merge"] = (about, self._merge(target, self.pure(target), merge))
        if "factors" in recipe.controls:
            other = "factors" if merge.space == "delta" else "delta"
            changed = merge.model_copy(update={"space": other})
            rows[f"weaverec ({other})"] = (
                f"the same adapters merged in {other} space",
                self._merge(target, self.hybrids(target), changed),
            )
        rows |= self._beside(target)
        for source in sources if "pairs" in recipe.controls else []:
            pair = [own, self.target_branch(source)]
            rows[f"pair: {source}"] = ("target's and one pure source's adapters merged",
                                       self._merge(target, pair, merge, [source]))  # fmt: skip
        for source in sources if "sources" in recipe.controls else []:
            rows[f"source: {source}"] = ("adapter of that domain alone, used on the target",
                                         self.target_branch(source))  # fmt: skip
        for source in sources if "hybrids" in recipe.controls else []:
            rows[f"hybrid: {source}"] = ("one hybrid on its own",
                                         self.hybrid_branch(target, source))  # fmt: skip
        return rows

    def _soups(self, target: str) -> Rows:
        """What merging does without other domains: branches of the target alone."""
        recipe, merge, sources = self.recipe, self.recipe.merge, self._sources(target)
        own = self.target_branch(target)
        rows: dict[str, tuple[str, Stage | None]] = {}
        if "soup" in recipe.controls:
            twins = [own, *(self.target_branch(target, twin=n + 1) for n in range(len(sources)))]
            about = (
                f"{len(twins)} target-only adapters that differ in seed, merged: averaging alone"
            )
            rows["soup"] = (about, self._merge(target, twins, merge))
        if "soup_longer" in recipe.controls:
            long = [self.target_branch(target, longer=2, twin=n) for n in range(len(sources))]
            about = (
                f"target-only and {len(long)} target-only of twice the steps, merged: averaging"
                " and a hybrid's training length without other domains"
            )
            rows["soup, longer"] = (about, self._merge(target, [own, *long], merge))
        return rows

    def _beside(self, target: str) -> Rows:
        """Other merging methods on the same branches: hybrids, and with `naive` pure sources."""
        recipe = self.recipe
        rows: dict[str, tuple[str, Stage | None]] = {}
        beside = recipe.merge.beside
        for title, one in zip(merge_names(beside), beside, strict=True):
            kinds = [("hybrids", "target and hybrid", self.hybrids(target))]
            if "naive" in recipe.controls:
                kinds.append(("naive", "target and pure-source", self.pure(target)))
            for kind, what, parts in kinds:
                name = f"{kind}, {title}"
                if name in rows:
                    raise WeftError(
                        f"merge.beside: two rows would be called '{name}': the same merge is there "
                        "twice"
                    )
                about = f"{what} adapters merged ({merge_words(one)})"
                rows[name] = (about, self._merge(target, parts, one))
        return rows

    def _sources(self, target: str) -> list[str]:
        return [name for name in self.plan.domains if name != target]

    def again(self, target: str) -> Rows:
        """The rows that are repeated with more seeds: what the claim rests on."""
        kept = (BASELINE, FEATURED, "soup", "soup, longer")
        return {name: row for name, row in self.rows(target).items() if name in kept}

    def _merge(
        self, target: str, parts: list[Stage], merging: Merging, sources: list[str] | None = None
    ) -> Stage:
        """Branches merged, with weights uniform, given, chosen by validation, or learned; `sources`
        are the domains that they are of beside the target, all unless said."""
        sources = self._sources(target) if sources is None else sources
        whole = self.recipe.branches.parameters == "all"
        parents = {f"part{i}": part for i, part in enumerate(parts)}
        weights: list[float] | None = None
        if merging.weights == "validation":
            parents["weights"] = self._tuned(target, parts, merging)
        elif merging.weights == "adamerging":
            parents["weights"] = self._learned(target, parts, sources)
        elif merging.weights == "collaborative":
            parents["weights"] = self._collaborated(target, parts, sources)
        elif merging.weights == "uniform":
            weights = [1 / len(parts)] * len(parts)
        elif len(merging.weights) == len(parts):
            weights = list(merging.weights)
        else:
            raise WeftError(
                f"merge.weights: {len(parts)} branches are merged for {target}, "
                f"so {len(parts)} weights are needed, not {len(merging.weights)}"
            )
        self._rehearse(parts, merging, weights)
        label = f"merge for {target} ({merge_words(merging)}): {_names(parts)}"
        if whole:
            settings = self._checkpoints(merging, len(parts)) | {"weights": weights}
            return Stage(merge_weights, settings, parents, label)
        return Stage(merge_branches, merge_settings(merging) | {"weights": weights}, parents, label)

    def _rehearse(self, parts: list[Stage], merging: Merging, weights: list[float] | None) -> None:
        """What can't be merged so is refused now, not after its parts were trained."""
        count, head = len(parts), self.recipe.recommender.kind == "cross_encoder"
        make_method(merging.method).check(count)
        kind: Kind = "adapters with a head" if head else "adapters"
        method: Any = merging.method
        if self.recipe.branches.parameters == "all":
            kind, method = "checkpoints", _on_checkpoints(merging)
        tried = [weights or [1 / count] * count]
        if merging.weights == "validation":
            tried = tuning_grid(count)
        for one in tried:
            try:
                rehearse(method, count, one, kind, space=merging.space, rank=merging.rank)
            except WeftError as error:
                learned = f", weights by {merging.weights}" if merging.weights in LEARNED else ""
                raise WeftError(
                    f"merge: {kind} can't be merged so ({merge_words(merging)}{learned}): {error}"
                ) from None

    def _checkpoints(self, merging: Merging, count: int) -> dict[str, Any]:
        """The settings of a merge of full checkpoints; random masks are those of adapters."""
        return {
            "method": _on_checkpoints(merging),
            "names": [f"part {number}" for number in range(1, count + 1)],
            "backbone": self.plan.scoring["backbone"],
        }

    def _tuned(self, target: str, parts: list[Stage], merging: Merging) -> Stage:
        settings = {
            **self.plan.scoring,
            **merge_settings(merging),
            "split": self.plan.split,
            "validation": self.plan.validation(self.recipe.merge.validation_users, 5),
        }
        parents = {f"part{i}": part for i, part in enumerate(parts)}
        parents["domain"] = self.plan.domains[target]
        label = f"choose λ for {target} ({merge_words(merging)}): {_names(parts)}"
        if self.recipe.branches.parameters == "all":
            settings |= self._checkpoints(merging, len(parts))
            return Stage(tune_checkpoints, settings, parents, label)
        return Stage(tune_weights, settings, parents, label)

    def _learned(self, target: str, parts: list[Stage], sources: list[str]) -> Stage:
        """AdaMerging: weights for each module, from unlabelled prompts of every domain merged."""
        recipe = self.recipe
        settings = {
            **self.plan.scoring,
            "recommender": recipe.recommender.for_training().model_dump(mode="json"),
            "split": self.plan.split,
            "adamerging": recipe.merge.adamerging.model_dump(mode="json"),
            "seed": seed_of(self.seed, "adamerging"),
        }
        parents = {f"part{i}": part for i, part in enumerate(parts)}
        names = [target, *sources]
        parents |= {f"domain{i}": self.plan.domains[name] for i, name in enumerate(names)}
        label = f"AdaMerging for {target}: {_names(parts)}"
        return Stage(learn_merge_weights, settings, parents, label)

    def _collaborated(self, target: str, parts: list[Stage], sources: list[str]) -> Stage:
        """MergeRec's learning: part 0 speaks for the target's catalogue, each other part for its
        source's; from WeaveRec's own 1/(N + 1) unless the recipe says where to start."""
        said = self.recipe.merge.collaborative
        if said.initial is None:
            said = said.model_copy(update={"initial": 1 / len(parts)})
        names = [target, *sources]
        settings = {
            **self.plan.scoring,
            "names": names,
            "collaborative": said.model_dump(mode="json"),
            "seed": seed_of(self.seed, "learn"),
        }
        parents = {f"part{i}": part for i, part in enumerate(parts)}
        for i, name in enumerate(names):
            parents[f"catalogue{i}"] = self.plan.catalogue(name)
            if said.probes.choose == "popular":
                domain = {"domain": self.plan.domains[name]}
                counted = {"split": self.plan.split}
                parents[f"counts{i}"] = Stage(
                    count_items, counted, domain, f"count items of {name}"
                )
        label = f"learn weights for {target}: {_names(parts)}"
        return Stage(learn_weights, settings, parents, label)


def merge_settings(merging: Merging) -> dict[str, Any]:
    """What decides a merge beside its parts and weights. A plain linear one has no `method`."""
    settings: dict[str, Any] = {"space": merging.space}
    method = make_method(merging.method)
    if method != make_method("linear"):
        settings["method"] = method_options(method)
    return settings | ({} if merging.rank is None else {"rank": merging.rank})


def _on_checkpoints(merging: Merging) -> dict[str, Any]:
    """The method that does to checkpoints what `merging`'s does to adapters. A sum of ΔW is one of
    task vectors: θ_base + Σ λ_k (θ_k - θ_base), which is Σ λ_k θ_k where the weights sum to 1."""
    method = make_method(merging.method)
    return method_options(
        make_method("task_arithmetic" if method == make_method("linear") else method)
    )


def _names(parts: list[Stage]) -> str:
    return " + ".join(part.label.removeprefix("train ") for part in parts)
