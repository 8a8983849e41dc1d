"""X-Cross (SIGIR 2025): frozen adapters of other domains, integrated layer by layer for a new one.

    an adapter for every domain D_k;  the n best of them on the target's hold-out, untrained on it;
    an integrator over these n, trained on a few examples of the target

Its rivals get the same sources, examples and epochs. Everything is decided by its settings and
parents, so that another target, size or rival trains nothing twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from weft.integration import IntegratorSettings
from weft.report.format import count_words
from weft.report.model import Branch, ReportTable
from weft.stages.stage import Stage
from weft.systems.merge_check import check_merge
from weft.systems.merge_words import merge_words
from weft.systems.plan import BranchOptions, EvaluationOptions, evaluation_label
from weft.systems.recipe import Merging, StudyRecipe
from weft.systems.rows import StudyRow
from weft.systems.stages.evaluation import EvaluationStage, TakeBest
from weft.systems.stages.merging import MergeAdapters
from weft.systems.stages.training import TrainBranch, TrainingStage
from weft.systems.system import Contrasts, System
from weft.systems.x_cross.little_data import LittleData, Trial
from weft.systems.x_cross.recipe import BASELINE, BEST, FEATURED, XCrossRecipe
from weft.systems.x_cross.stages import ChooseSources, EvaluateBestSource, TrainIntegrator
from weft.systems.x_cross.tables import (
    CONTRASTS,
    costs_table,
    source_row,
    sources_table,
    x_cross_rows,
)
from weft.training.batches import seed_of


@dataclass(frozen=True)
class Subset:
    """The examples of the target that something is trained on: how many, and who draws them."""

    examples: int
    epochs: int
    data_seed: int
    number: int | None = None  # of the drawn subset, from 1; None: of the table's rows

    @property
    def label(self) -> str:
        return f"{self.examples:,}" + ("" if self.number is None else f", subset {self.number}")


@dataclass(frozen=True)
class XCross(System[XCrossRecipe]):
    """The stages of an X-Cross recipe."""

    title: ClassVar[str] = "X-Cross"
    recipe_class: ClassVar[type[StudyRecipe]] = XCrossRecipe
    baseline: ClassVar[str] = BASELINE
    featured: ClassVar[str] = FEATURED
    contrasts: ClassVar[Contrasts] = CONTRASTS

    # --- the algorithm

    def source(self, domain: str) -> TrainBranch:
        """The adapter of one domain."""
        return self.plan.adapter_branch([domain], self.recipe.seed)

    def candidates(self, target: str) -> tuple[TrainBranch, ...]:
        """The adapters that sources are chosen from."""
        return tuple(self.source(name) for name in self.recipe.among(target))

    def choice(self, target: str) -> ChooseSources:
        """The best sources on the target's hold-out."""
        sources = self.recipe.sources
        # The target's adapter is measured beside them, and never chosen.
        beside = None if target in self.recipe.among(target) else self.source(target)
        return ChooseSources(
            domain=self.plan.domains[target],
            parts=self.candidates(target),
            target_part=beside,
            scoring=self.plan.scoring,
            split=self.plan.split,
            holdout=self.plan.validation(sources.holdout, (1, 3, 10)),
            count=sources.count,
        )

    def integrated(
        self,
        target: str,
        settings: IntegratorSettings,
        *,
        subset: Subset | None = None,
        row: str | None = None,
    ) -> TrainIntegrator:
        """An integrator over the chosen sources, trained on the target."""
        target_settings, subset = self.recipe.target, subset or self._all_examples
        validation = target_settings.validation
        return TrainIntegrator(
            label=f"integrate for {target}: {row or settings.label}",
            domains=(self.plan.domains[target],),
            parts=self.candidates(target),
            choice=self.choice(target),
            integrator=settings,
            scoring=self.plan.scoring,
            split=self.plan.split,
            examples=subset.examples,
            train=target_settings.loop(subset.epochs),
            validation=self.plan.validation(validation.users, (10,)) if validation else None,
            data_seed=subset.data_seed,
            seed=seed_of(self.recipe.seed, "integrate", target),
            by_example=target_settings.activations > 0,
            activations=target_settings.activations,
        )

    # --- its rivals

    def new_adapter(self, target: str, subset: Subset | None = None) -> TrainBranch:
        """A new LoRA adapter on the target, from the same examples in the same epochs."""
        subset = subset or self._all_examples
        options = BranchOptions(
            branches=self.recipe.new_adapter(subset.examples, subset.epochs),
            data_seed=subset.data_seed,
            label=f" on {subset.label}",
        )
        return self.plan.adapter_branch([target], self.recipe.seed, options)

    def best_source(self, target: str) -> EvaluationStage:
        """The evaluation of the best source as it is: each is measured in a row of its own."""
        return TakeBest(
            label=f"take the best source for {target}",
            results=tuple(
                self.plan.evaluation(target, source_row(name), self.source(name))
                for name in self.recipe.among(target)
            ),
            choice=self.choice(target),
        )

    def merged(self, target: str, merging: Merging) -> MergeAdapters:
        """The chosen sources merged, without the target's examples."""
        count, words = self.recipe.sources.count, merge_words(merging)
        numbers = isinstance(merging.weights, tuple)
        weights = merging.weights if numbers else (1 / count,) * count
        assert not isinstance(weights, str)
        check_merge(
            merging.method, count, weights, "adapters with a head",
            refusal=f"merges: sources can't be merged so ({words})",
            space=merging.space, rank=merging.rank,
        )  # fmt: skip
        return MergeAdapters(
            label=f"merge sources for {target} ({words})",
            parts=self.candidates(target),
            choice=self.choice(target),
            method=merging.plain_method,
            space=merging.space,
            rank=merging.rank,
            weights=weights,
        )

    @property
    def _all_examples(self) -> Subset:
        target = self.recipe.target
        return Subset(target.examples, target.epochs, seed_of(self.recipe.seed, "data"))

    # --- little data

    @property
    def little_data(self) -> LittleData | None:
        """The study of little data, where the recipe asks for one."""
        settings = self.recipe.limited
        if settings is None:
            return None
        names = [
            name
            for name in self.recipe.targets
            if name in (settings.targets or self.recipe.targets)
        ]
        return LittleData(
            settings=settings,
            holdout=self.recipe.sources.holdout,
            best_source={target: self._best_of_some(target, settings.users) for target in names},
            trials=[
                trial
                for target in names
                for examples in settings.examples
                for number in range(settings.subsets)
                for trial in self._trials(target, examples, number)
            ],
        )

    def _trials(self, target: str, examples: int, number: int) -> list[Trial]:
        """X-Cross and a new adapter on one subset. The subsets of one number are nested: a size
        holds the smaller ones."""
        limited, seed = self.recipe.limited, self.recipe.seed
        assert limited is not None
        epochs = limited.epochs or self.recipe.target.epochs
        subset = Subset(examples, epochs, seed_of(seed, "subset", number), number + 1)
        row = f"{FEATURED} on {subset.label}"
        integrated = self.integrated(target, self.recipe.x_cross, subset=subset, row=row)
        options = EvaluationOptions(users=limited.users)
        trained = {FEATURED: integrated, BASELINE: self.new_adapter(target, subset)}
        return [
            Trial(
                target, method, examples, weights,
                self.plan.evaluation(target, f"{method} ({subset.label})", weights, options),
            )
            for method, weights in trained.items()
        ]  # fmt: skip

    def _best_of_some(self, target: str, users: int | None) -> EvaluationStage:
        """The best source as it is, on another number of test users."""
        if users is None:
            return self.best_source(target)
        return EvaluateBestSource(
            label=evaluation_label(target, f"{BEST} ({users:,} users)"),
            domain=self.plan.domains[target],
            evaluate=self.recipe.evaluate.model_copy(update={"users": users}),
            scoring=self.plan.scoring,
            parts=self.candidates(target),
            choice=self.choice(target),
        )

    # --- the study

    def rows(self) -> list[StudyRow]:
        if self.plan.blocks is not None:  # else it would come out only after the sources' training
            variants = [self.recipe.variant(name) for name in self.recipe.variants]
            for settings in (self.recipe.x_cross, *self.recipe.rivals, *variants):
                settings.check_depth(self.plan.blocks)
        return [row for target in self.recipe.targets for row in x_cross_rows(self, target)]

    def further(self) -> list[Stage]:
        return [] if self.little_data is None else self.little_data.stages()

    def tables(self, run: Path, timings: Mapping[str, float]) -> list[ReportTable]:
        choices = {target: self.choice(target) for target in self.recipe.targets}
        names = [spec.name for spec in self.recipe.domains]
        costs = [costs_table(target, x_cross_rows(self, target), run) for target in choices]
        little_data = [] if self.little_data is None else self.little_data.tables(run)
        return [sources_table(choices, names, run), *costs, *little_data]

    def notes(self, run: Path) -> list[str]:
        """Which adapters are integrated for each target."""
        sentences = []
        for target in self.recipe.targets:
            chosen = self.choice(target).names(run)
            sentences.append(f"{target}: integrated are the adapters of {' and '.join(chosen)}.")
            if target in self.recipe.among(target):
                sentences.append(
                    f"{target} is among its own sources: its adapter has seen the target's training "
                    "users, so what it does there is no transfer."
                )
        return sentences

    def branch(self, stage: TrainingStage) -> Branch:
        """Learning curves of variants and sources wait in the legend."""
        names = stage.domain_names
        if isinstance(stage, TrainIntegrator):
            shown = stage.integrator == self.recipe.x_cross
            return Branch(domains=names, kind="integrator", shown=shown)
        source = stage.examples == self.recipe.branches.examples
        return Branch(domains=names, kind="source" if source else BASELINE, shown=not source)

    def training_words(self) -> str:
        sources, target = self.recipe.branches, self.recipe.target
        return (
            f"sources' adapters on up to {sources.examples:,} examples each, "
            f"{count_words(sources.epochs, 'epoch')}, LoRA rank {sources.lora.rank}, learning rate "
            f"{sources.learning_rate:g}; on the target up to {target.examples:,} examples, "
            f"{count_words(target.epochs, 'epoch')}, batch {target.batch}, learning rate "
            f"{target.learning_rate:g} ({target.lora_learning_rate or target.learning_rate:g} of the "
            f"new adapter); {getattr(self.recipe.recommender, 'drawn', 0)} candidates drawn in "
            "training"
        )
