"""MergeRec (arXiv 2601.01753): one model for every domain, out of theirs and catalogues alone.

    a model for every domain D_k, every parameter trained;  weights learned from the models and the
    catalogues;  θ_base + Σ_k w_k v_k, one recommender for all of them

Its rivals merge the same models. Everything is decided by its own settings and parents, so that
another study trains nothing twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from weft.errors import WeftError
from weft.learning.collaborative import CollaborativeSettings
from weft.merging.methods import make_method
from weft.stages.stage import Stage
from weft.systems.common_stages import take_best
from weft.systems.merge_stages import (
    choose_merge,
    choose_uniform,
    count_items,
    draw_sequences,
    learn_weights,
    merge_weights,
)
from weft.systems.mergerec.recipe import SEQUENCES, MergeRecRecipe, Uniform
from weft.systems.plan import Plan
from weft.systems.rehearsal import rehearse
from weft.training.batches import seed_of

FEATURED, BASELINE = "mergerec", "best uniform merge"
OWN, JOINT = "fine-tuned", "joint"


@dataclass(frozen=True)
class MergeRec:
    """The stages of a MergeRec recipe."""

    plan: Plan
    recipe: MergeRecRecipe

    @property
    def names(self) -> list[str]:
        return [spec.name for spec in self.recipe.domains]

    def own(self, domain: str) -> Stage:
        """A domain's own model."""
        return self.plan.branch([domain], self.recipe.seed)

    def joint(self) -> Stage:
        """One model of all domains' users, which MergeRec's setting does not allow."""
        return self.plan.branch(self.names, self.recipe.seed, how=self.recipe.joint_branches())

    # --- uniform weights

    def chosen(self, one: Uniform) -> Stage:
        """The best of a uniform merge's weights over validation users of all domains."""
        settings = self._method(one.method, self.names) | {
            **self.plan.scoring,
            "among": list(one.weights),
            "split": self.plan.split,
            "validation": self.plan.validation(self.recipe.choose_users, 10),
        }
        self._rehearse(one.method, list(one.weights) or [None], len(self.names))
        parents = self._parts(self.names)
        parents |= {f"domain{k}": self.plan.domains[name] for k, name in enumerate(self.names)}
        return Stage(choose_uniform, settings, parents, f"choose weights of {one.row}")

    def uniform(self, one: Uniform) -> Stage:
        """A merge with the chosen weight."""
        return self.merged(one.method, self.names, {"weights": self.chosen(one)}, said=one.row)

    def best_uniform(self, target: str) -> Stage:
        """The evaluation of the uniform merge that is best over validation users of all domains."""
        every = self.recipe.uniform
        choices = {f"choice{i}": self.chosen(one) for i, one in enumerate(every)}
        choice = Stage(choose_merge, {}, choices, "choose a uniform merge")
        results = {
            f"result{i}": self.plan.evaluation(target, one.row, self.uniform(one))
            for i, one in enumerate(every)
        }
        return Stage(
            take_best, {}, results | {"choice": choice}, f"take the best uniform merge on {target}"
        )

    # --- learned weights

    def learned(
        self,
        settings: CollaborativeSettings,
        said: str,
        *,
        names: Sequence[str] | None = None,
        seed: int | None = None,
        real: bool = False,
    ) -> Stage:
        """Weights learned for some domains, all unless `names`; with `real` from their training
        sequences, a control."""
        names = list(names or self.names)
        parents = self._parts(names)
        for k, name in enumerate(names):
            domain = {"domain": self.plan.domains[name]}
            split = {"split": self.plan.split}
            parents[f"catalogue{k}"] = self.plan.catalogue(name)
            if settings.probes.choose == "popular":
                parents[f"counts{k}"] = Stage(count_items, split, domain, f"count items of {name}")
            if real:
                drawn = split | {"seed": seed_of(self.recipe.seed, "sequences")}
                label = f"sequences of {name}"
                parents[f"probes{k}"] = Stage(draw_sequences, drawn, domain, label)
        own = {
            **self.plan.scoring,
            "names": names,
            "collaborative": settings.model_dump(mode="json"),
            "seed": seed_of(self.recipe.seed if seed is None else seed, "learn"),
        }
        return Stage(learn_weights, own, parents, f"learn weights: {said}")

    def woven(
        self,
        changes: dict[str, Any],
        said: str,
        *,
        names: Sequence[str] | None = None,
        seed: int | None = None,
    ) -> Stage:
        """The merge of learned weights; `changes` are a variant's."""
        settings = self.recipe.variant(changes)
        real = bool(changes.get(SEQUENCES, False))
        learned = self.learned(settings, said, names=names, seed=seed, real=real)
        return self.merged(
            settings.method, list(names or self.names), {"weights": learned}, said=said
        )

    # --- merges

    def merged(
        self,
        method: str | dict[str, Any],
        names: Sequence[str],
        parents: dict[str, Stage],
        weights: Sequence[float] | None = None,
        said: str = "",
    ) -> Stage:
        """A static merge of some domains' own models."""
        self._rehearse(method, [None], len(names))
        settings = self._method(method, names) | {"weights": weights and list(weights)}
        return Stage(merge_weights, settings, self._parts(names) | parents, f"merge {said}")

    def _method(self, method: str | dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
        backbone = self.plan.scoring["backbone"]
        return {"method": method, "names": list(names), "backbone": backbone}

    def _rehearse(
        self, method: str | dict[str, Any], weights: Sequence[float | None], count: int
    ) -> None:
        """What can't be merged so is refused now, not after its parts were trained."""
        for one in weights:
            try:
                rehearse(method, count, None if one is None else [one] * count, "checkpoints")
            except WeftError as error:
                raise WeftError(f"checkpoints can't be merged so: {error}") from None

    def _parts(self, names: Sequence[str]) -> dict[str, Stage]:
        return {f"part{k}": self.own(name) for k, name in enumerate(names)}

    @cached_property
    def start(self) -> float:
        """The weight that learning starts from."""
        return self.recipe.collaborative.start(len(self.names))[0]


def method_words(method: str | dict[str, Any]) -> str:
    """A merging method in a few words."""
    options = method if isinstance(method, dict) else {"name": method}
    said = make_method(method).name.replace("_", " ")
    more = ", ".join(f"{k} {v}" for k, v in options.items() if k not in ("name", "then"))
    return said + (f" ({more})" if more else "")
