"""X-Cross (SIGIR 2025): frozen adapters of other domains, integrated layer by layer for a new one.

    an adapter for every domain D_k;  the n best of them on the target's hold-out, untrained on it;
    an integrator over these n, trained on a few examples of the target

Its rivals get the same sources, examples and epochs. Everything is decided by its own settings and
parents, so that another target, size or rival trains nothing twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from weft.errors import WeftError
from weft.integration.kinds import AnyIntegratorSettings
from weft.integration.mixtures import XLoraSettings
from weft.stages.stage import Stage
from weft.systems.common_stages import merge_branches, take_best
from weft.systems.plan import Plan, Rows
from weft.systems.recipe import Merging
from weft.systems.rehearsal import rehearse
from weft.systems.rows import merge_names, merge_words
from weft.systems.weaverec.algorithm import merge_settings
from weft.systems.x_cross.recipe import XCrossRecipe
from weft.systems.x_cross.stages import choose_sources, train_integrator
from weft.training import TrainSettings
from weft.training.batches import seed_of

FEATURED, BASELINE = "x-cross", "lora"
BEST = "best source"

CONTRASTS = (
    (FEATURED, BEST, "what integrating and the target's examples add to the best source as it is"),
    (FEATURED, "pooler + scorer", "beyond a new head on the best source"),
    (FEATURED, "x-lora", "against weights from the plain backbone"),
    (FEATURED, "meteora", "against a gate for each block"),
    (FEATURED, "merge", "integrating against merging the same sources"),
    (
        FEATURED,
        "x-cross, -layers",
        "what refining block by block adds to a weighted sum at the end",
    ),
)
"""(row, against, what the difference tells)."""


@dataclass(frozen=True)
class XCross:
    """The stages of an X-Cross recipe."""

    plan: Plan
    recipe: XCrossRecipe

    def source(self, domain: str) -> Stage:
        """One domain's own adapter."""
        return self.plan.branch([domain], self.recipe.seed)

    def choice(self, target: str) -> Stage:
        """The best sources on the target's hold-out."""
        among, said = self.recipe.among(target), self.recipe.sources
        settings = {
            **self.plan.scoring,
            "split": self.plan.split,
            "holdout": self.plan.validation(said.holdout, 10) | {"at": (1, 3, 10)},
            "names": among,
            "count": said.count,
        }
        parents = self._parts(target) | {"domain": self.plan.domains[target]}
        if target not in among:  # measured beside them, and never chosen
            settings["own"] = target
            parents["own"] = self.source(target)
        return Stage(choose_sources, settings, parents, f"choose sources for {target}")

    def integrated(
        self,
        target: str,
        how: AnyIntegratorSettings,
        *,
        examples: int | None = None,
        epochs: int | None = None,
        draw: int | None = None,
        said: str = "",
    ) -> Stage:
        """One integrator over the chosen sources, trained on the target."""
        target_settings = self.recipe.target
        loop = target_settings.model_dump(
            include=set(TrainSettings.model_fields) - TrainSettings.ASIDE, mode="json"
        )
        aside = target_settings.model_dump(
            include={*TrainSettings.ASIDE, "activations"}, mode="json"
        )
        seed = self.recipe.seed
        settings: dict[str, Any] = {
            **self.plan.scoring,
            "split": self.plan.split,
            "integrator": how.model_dump(mode="json"),
            "examples": examples or target_settings.examples,
            "kept": target_settings.activations > 0,  # computed by example, not by batch
            "train": loop | {"epochs": epochs or target_settings.epochs},
            "validation": self.plan.validation(target_settings.validation.users, 10)
            if target_settings.validation
            else None,
            "data_seed": seed_of(seed, "data") if draw is None else draw,
            "seed": seed_of(seed, "integrate", target),
        }
        parents = self._chosen(target) | {"domain": self.plan.domains[target]}
        label = f"integrate for {target}: {said or row_of(how)}"
        return Stage(train_integrator, settings, parents, label, {"aside": aside})

    def new_adapter(
        self,
        target: str,
        *,
        examples: int | None = None,
        epochs: int | None = None,
        draw: int | None = None,
        said: str = "",
    ) -> Stage:
        """A new LoRA adapter on the target, from the same examples in the same epochs."""
        how = self.recipe.new_adapter(examples or self.recipe.target.examples, epochs)
        said = f" on {how.examples:,}{said}"
        return self.plan.branch([target], self.recipe.seed, how=how, draw=draw, said=said)

    def best_source(self, target: str, users: int | None = None) -> Stage:
        """The evaluation of the best source as it is."""
        if users is not None:
            row = f"{BEST} ({users:,} users)"
            return self.plan.evaluation(target, row, None, more=self._chosen(target), users=users)
        results = {
            f"result{i}": self.plan.evaluation(target, source_row(name), self.source(name))
            for i, name in enumerate(self.recipe.among(target))
        }
        parents = results | {"choice": self.choice(target)}
        return Stage(take_best, {}, parents, f"take the best source for {target}")

    def rows(self, target: str) -> Rows:
        """Every row of the target's table that has weights."""
        recipe = self.recipe
        size = f"up to {recipe.target.examples:,} of the target's examples"
        rows = _Rows()
        for name in recipe.among(target):
            rows[source_row(name)] = ("that domain's adapter, zero-shot", self.source(name))
        rows["target, as a source"] = (
            "the target's own adapter, trained as the sources are", self.source(target)
        )  # fmt: skip
        rows[BASELINE] = (f"a new adapter on {size}", self.new_adapter(target))
        rows[FEATURED] = (f"X-Cross on {size}", self.integrated(target, recipe.x_cross))
        for rival in recipe.rivals:
            rows[row_of(rival)] = (_about(rival), self.integrated(target, rival))
        for title, merging in zip(merge_names(recipe.merges), recipe.merges, strict=True):
            name = "merge" if title == "linear" else f"merge, {title}"
            about = f"the same sources merged ({merge_words(merging)})"
            rows[name] = (about, self.merged(target, merging))
        if recipe.variants_on is None or target in recipe.variants_on:
            for name in recipe.variants:
                made = self.integrated(target, recipe.variant(name), said=f"x-cross, {name}")
                changes = ", ".join(f"{k} {v}" for k, v in recipe.variants[name].items())
                rows[f"x-cross, {name}"] = (f"X-Cross with {changes}", made)
        return rows

    def merged(self, target: str, merging: Merging) -> Stage:
        """The chosen sources merged, without the target's examples."""
        count = self.recipe.sources.count
        weights = merging.weights if isinstance(merging.weights, tuple) else [1 / count] * count
        settings = merge_settings(merging) | {"weights": list(weights)}
        try:
            rehearse(
                merging.method, count, list(weights), "adapters with a head",
                space=merging.space, rank=merging.rank,
            )  # fmt: skip
        except WeftError as error:
            words = merge_words(merging)
            raise WeftError(f"merges: sources can't be merged so ({words}): {error}") from None
        label = f"merge sources for {target} ({merge_words(merging)})"
        return Stage(merge_branches, settings, self._chosen(target), label)

    def _parts(self, target: str) -> dict[str, Stage]:
        among = self.recipe.among(target)
        return {f"part{i}": self.source(name) for i, name in enumerate(among)}

    def _chosen(self, target: str) -> dict[str, Stage]:
        return self._parts(target) | {"choice": self.choice(target)}


class _Rows(dict[str, tuple[str, Stage | None]]):
    """Rows by name: two of one name are an error, not one row."""

    def __setitem__(self, name: str, row: tuple[str, Stage | None]) -> None:
        if name in self:
            raise WeftError(
                f"two rows would be called '{name}': leave one of them out of the recipe"
            )
        super().__setitem__(name, row)


def source_row(domain: str) -> str:
    """The name of a source's row."""
    return f"source: {domain}"


def row_of(how: AnyIntegratorSettings) -> str:
    """The name of an integrator's row."""
    if isinstance(how, XLoraSettings):
        return "x-lora" if how.form == "published" else "x-lora, one pass"
    return {"x_cross": FEATURED, "meteora": "meteora", "head": "pooler + scorer"}[how.kind]


def _about(how: AnyIntegratorSettings) -> str:
    if isinstance(how, XLoraSettings):
        return {
            "published": "X-LoRA: one softmax head on the plain backbone's last layer, two passes",
            "one_pass": "X-LoRA's head on the plain lower blocks' output, one pass",
        }[how.form]
    return {
        "x_cross": "X-Cross",
        "meteora": "MeteoRA: a softmax gate for each block, on plain activations",
        "head": "a new head on the best source, which stays frozen",
    }[how.kind]
