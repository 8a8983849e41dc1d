"""MergeRec (arXiv 2601.01753): one model for every domain, out of theirs and catalogues alone.

    a model for every domain D_k, every parameter trained;  weights learned from the models and the
    catalogues;  θ_base + Σ_k w_k v_k, one recommender for all of them

Its rivals merge the same models. Everything is decided by its own settings and parents, so that
another study trains nothing twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from weft.report.model import Branch, ReportTable
from weft.stages.stage import Stage
from weft.systems.merge_check import check_merge
from weft.systems.mergerec.recipe import BASELINE, FEATURED, MergeRecRecipe, Uniform, Variant
from weft.systems.mergerec.stages import ChooseMerge, ChooseUniform
from weft.systems.mergerec.tables import (
    CONTRASTS,
    MergeRecTables,
    mergerec_branch,
    mergerec_training_words,
)
from weft.systems.plan import BranchOptions
from weft.systems.recipe import MethodSpec, StudyRecipe
from weft.systems.rows import StudyRow
from weft.systems.stages.domains import DrawSequences
from weft.systems.stages.evaluation import TakeBest
from weft.systems.stages.learning import LearnWeights
from weft.systems.stages.merging import MergeCheckpoints, Weights
from weft.systems.stages.training import TrainCheckpoint, TrainingStage
from weft.systems.system import Contrasts, System
from weft.training.batches import seed_of


@dataclass(frozen=True)
class MergeRec(System[MergeRecRecipe]):
    """The stages of a MergeRec recipe."""

    title: ClassVar[str] = "MergeRec"
    recipe_class: ClassVar[type[StudyRecipe]] = MergeRecRecipe
    baseline: ClassVar[str] = BASELINE
    featured: ClassVar[str] = FEATURED
    contrasts: ClassVar[Contrasts] = CONTRASTS

    @property
    def names(self) -> list[str]:
        return [spec.name for spec in self.recipe.domains]

    def domain_model(self, domain: str) -> TrainCheckpoint:
        """A model of one domain."""
        return self.plan.checkpoint_branch([domain], self.recipe.seed)

    def joint(self) -> TrainCheckpoint:
        """One model of all domains' users, which MergeRec's setting does not allow."""
        options = BranchOptions(branches=self.recipe.joint_branches())
        return self.plan.checkpoint_branch(self.names, self.recipe.seed, options)

    # --- uniform weights

    def uniform_weight(self, one: Uniform) -> ChooseUniform:
        """The best of a uniform merge's weights over validation users of all domains."""
        for weight in one.weights or (None,):
            self._check(one.method, weight, len(self.names))
        return ChooseUniform(
            label=f"choose weights of {one.row}",
            parts=self._parts(self.names),
            names=tuple(self.names),
            domains=tuple(self.plan.domains[name] for name in self.names),
            method=one.method,
            among=one.weights,
            scoring=self.plan.scoring,
            split=self.plan.split,
            validation=self.plan.validation(self.recipe.choose_users, (10,)),
        )

    def uniform(self, one: Uniform) -> MergeCheckpoints:
        """A merge with the chosen weight."""
        return self.merged(one.method, self.names, self.uniform_weight(one), one.row)

    def uniform_choice(self) -> ChooseMerge:
        """Which uniform merge is best over validation users of all domains."""
        return ChooseMerge(choices=tuple(self.uniform_weight(one) for one in self.recipe.uniform))

    def best_uniform(self, target: str) -> TakeBest:
        """The evaluation of the best uniform merge."""
        return TakeBest(
            label=f"take the best uniform merge on {target}",
            results=tuple(
                self.plan.evaluation(target, one.row, self.uniform(one))
                for one in self.recipe.uniform
            ),
            choice=self.uniform_choice(),
        )

    # --- learned weights

    def learned_weights(
        self,
        variant: Variant,
        label: str,
        *,
        names: Sequence[str] | None = None,
        seed: int | None = None,
    ) -> LearnWeights:
        """Weights learned for some domains, all unless `names`."""
        names, settings = tuple(names or self.names), variant.settings
        popular = settings.probes.choose == "popular"
        real = variant.real_sequences
        return LearnWeights(
            label=f"learn weights: {label}",
            parts=self._parts(names),
            names=names,
            catalogues=tuple(self.plan.catalogue(name) for name in names),
            counts=tuple(self.plan.item_counts(name) for name in names) if popular else (),
            sequences=tuple(self._sequences(name) for name in names) if real else (),
            scoring=self.plan.scoring,
            collaborative=settings,
            seed=seed_of(self.recipe.seed if seed is None else seed, "learn"),
        )

    def _sequences(self, name: str) -> DrawSequences:
        return DrawSequences(
            domain=self.plan.domains[name],
            split=self.plan.split,
            seed=seed_of(self.recipe.seed, "sequences"),
        )

    def learned_merge(
        self,
        variant: Variant,
        label: str,
        *,
        names: Sequence[str] | None = None,
        seed: int | None = None,
    ) -> MergeCheckpoints:
        """The merge of learned weights."""
        learned = self.learned_weights(variant, label, names=names, seed=seed)
        return self.merged(variant.settings.method, names or self.names, learned, label)

    # --- merges

    def merged(
        self, method: MethodSpec, names: Sequence[str], weights: Weights, label: str
    ) -> MergeCheckpoints:
        """A static merge of some domains' models."""
        self._check(method, None, len(names))
        return MergeCheckpoints(
            label=f"merge {label}",
            parts=self._parts(names),
            names=tuple(names),
            method=method,
            scoring=self.plan.scoring,
            weights=weights,
        )

    def _check(self, method: MethodSpec, weight: float | None, count: int) -> None:
        """What can't be merged so is refused now, not after its parts were trained."""
        weights = None if weight is None else [weight] * count
        refusal = "checkpoints can't be merged so"
        check_merge(method, count, weights, "checkpoints", refusal=refusal)

    def _parts(self, names: Sequence[str]) -> tuple[TrainCheckpoint, ...]:
        return tuple(self.domain_model(name) for name in names)

    # --- the study

    @cached_property
    def report(self) -> MergeRecTables:
        """Its rows and tables."""
        return MergeRecTables(self)

    def rows(self) -> list[StudyRow]:
        return self.report.rows

    def further(self) -> list[Stage]:
        return self.report.further()

    def tables(self, run: Path, timings: Mapping[str, float]) -> list[ReportTable]:
        return self.report.tables(run)

    def notes(self, run: Path) -> list[str]:
        return self.report.notes(run)

    def branch(self, stage: TrainingStage) -> Branch:
        return mergerec_branch(self.recipe, stage)

    def training_words(self) -> str:
        return mergerec_training_words(self.recipe)
