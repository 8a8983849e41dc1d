"""WeaveRec (arXiv 2510.26546): train hybrid LoRA adapters on target + source, then merge.

    θ_0 on D_0;  θ_n on D_0 ∪ D_n for n = 1 … N;  θ = Σ λ_i θ_i  with Σ λ_i = 1

All branches start from the same LoRA initialisation. A hybrid of {a, b} is trained once and
serves both directions. A branch is decided by its own set of domains and nothing else, so adding
a source trains its hybrids only, and removing one trains nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from weft.errors import SettingError
from weft.merging.methods import make_method, method_options
from weft.report.model import Branch
from weft.systems.merge_check import PartKind, check_merge
from weft.systems.merge_words import merge_words
from weft.systems.plan import BranchOptions
from weft.systems.recipe import LEARNED, Merging, StudyRecipe
from weft.systems.rows import StudyRow
from weft.systems.stages.learning import LearnWeights
from weft.systems.stages.merging import (
    MergeAdapters,
    MergeCheckpoints,
    MergeWeightsStage,
    TuneAdapters,
    TuneCheckpoints,
    tuning_grid,
)
from weft.systems.stages.training import TrainBranch, TrainCheckpoint, TrainingStage
from weft.systems.stages.weights import AdapterStage, CheckpointStage
from weft.systems.system import Contrasts, System
from weft.systems.weaverec.recipe import WeaveRecRecipe
from weft.systems.weaverec.stages import LearnByEntropy
from weft.systems.weaverec.tables import (
    BASELINE,
    CONTRASTS,
    FEATURED,
    small_settings_note,
    weaverec_branch,
    weaverec_rows,
    weaverec_training_words,
)
from weft.training.batches import seed_of

Trained = TrainBranch | TrainCheckpoint
Merged = MergeAdapters | MergeCheckpoints
P = TypeVar("P", TrainBranch, TrainCheckpoint)


@dataclass(frozen=True)
class WeaveRec(System[WeaveRecRecipe]):
    """The stages of a WeaveRec recipe, of its own seed or another."""

    title: ClassVar[str] = "WeaveRec"
    recipe_class: ClassVar[type[StudyRecipe]] = WeaveRecRecipe
    baseline: ClassVar[str] = BASELINE
    featured: ClassVar[str] = FEATURED
    contrasts: ClassVar[Contrasts] = CONTRASTS

    other_seed: int | None = None

    @property
    def seed(self) -> int:
        return self.recipe.seed if self.other_seed is None else self.other_seed

    # --- the algorithm

    def target_branch(self, target: str, *, longer: int = 1, twin: int = 0) -> Trained:
        """θ_0: LoRA on the target alone."""
        return self.plan.branch([target], self.seed, BranchOptions(longer=longer, twin=twin))

    def hybrid_branch(self, target: str, source: str) -> Trained:
        """θ_n: LoRA on D_0 ∪ D_n."""
        return self.plan.branch([target, source], self.seed)

    def hybrids(self, target: str) -> list[Trained]:
        """The target's own branch, then a hybrid with each source."""
        sources = self.sources(target)
        return [self.target_branch(target), *(self.hybrid_branch(target, s) for s in sources)]

    def pure(self, target: str) -> list[Trained]:
        """The target's own branch, then each source's: the naive parts of a merge."""
        return [self.target_branch(target), *map(self.target_branch, self.sources(target))]

    def weave(self, target: str) -> Merged:
        """θ = Σ λ_i θ_i over the target branch and every hybrid."""
        return self.merge(target, self.hybrids(target), self.recipe.merge)

    def sources(self, target: str) -> list[str]:
        """Every other domain."""
        return [name for name in self.plan.domains if name != target]

    # --- merging

    def merge(
        self,
        target: str,
        parts: Sequence[Trained],
        merging: Merging,
        sources: Sequence[str] | None = None,
    ) -> Merged:
        """Branches merged, with weights uniform, as the recipe has them, chosen by validation, or
        learned; `sources` are the domains that they are of beside the target (None: all)."""
        names = [target, *(self.sources(target) if sources is None else sources)]
        label = f"merge for {target} ({merge_words(merging)}): {_names(parts)}"
        numbers = self._numbers(target, parts, merging)
        self._check(len(parts), merging, numbers)
        if self.recipe.branches.parameters == "all":
            checkpoints = _all_of(TrainCheckpoint, parts)
            return MergeCheckpoints(
                label=label,
                parts=checkpoints,
                names=_part_names(parts),
                method=_on_checkpoints(merging),
                scoring=self.plan.scoring,
                weights=numbers or self._checkpoint_weights(target, checkpoints, merging, names),
            )
        adapters = _all_of(TrainBranch, parts)
        return MergeAdapters(
            label=label,
            parts=adapters,
            method=merging.plain_method,
            space=merging.space,
            rank=merging.rank,
            weights=numbers or self._adapter_weights(target, adapters, merging, names),
        )

    def _numbers(
        self, target: str, parts: Sequence[Trained], merging: Merging
    ) -> tuple[float, ...] | None:
        """The weights, where they are known before anything is trained."""
        if merging.weights == "uniform":
            return (1 / len(parts),) * len(parts)
        if isinstance(merging.weights, str):
            return None
        if len(merging.weights) != len(parts):
            raise SettingError(
                f"merge.weights: {len(parts)} branches are merged for {target}, "
                f"so {len(parts)} weights are needed, not {len(merging.weights)}"
            )
        return merging.weights

    def _check(self, count: int, merging: Merging, weights: tuple[float, ...] | None) -> None:
        """What can't be merged so is refused now, not after its parts were trained."""
        make_method(merging.method).check(count)
        head = self.recipe.recommender.kind == "cross_encoder"
        kind: PartKind = "adapters with a head" if head else "adapters"
        method: Any = merging.method
        if self.recipe.branches.parameters == "all":
            kind, method = "checkpoints", _on_checkpoints(merging)
        tried = [list(weights or [1 / count] * count)]
        if merging.weights == "validation":
            tried = tuning_grid(count)
        learned = f", weights by {merging.weights}" if merging.weights in LEARNED else ""
        refusal = f"merge: {kind} can't be merged so ({merge_words(merging)}{learned})"
        for one in tried:
            check_merge(
                method, count, one, kind,
                refusal=refusal, space=merging.space, rank=merging.rank,
            )  # fmt: skip

    def _adapter_weights(
        self,
        target: str,
        parts: tuple[AdapterStage, ...],
        merging: Merging,
        names: Sequence[str],
    ) -> MergeWeightsStage:
        """The stage that finds the weights of adapters."""
        if merging.weights == "adamerging":
            return self._by_entropy(target, parts, names)
        if merging.weights == "collaborative":
            return self._collaborative(target, parts, names)
        return TuneAdapters(
            label=f"choose λ for {target} ({merge_words(merging)}): {_names(parts)}",
            domain=self.plan.domains[target],
            scoring=self.plan.scoring,
            split=self.plan.split,
            validation=self.plan.validation(self.recipe.merge.validation_users, (5,)),
            method=merging.plain_method,
            parts=parts,
            space=merging.space,
            rank=merging.rank,
        )

    def _checkpoint_weights(
        self,
        target: str,
        parts: tuple[CheckpointStage, ...],
        merging: Merging,
        names: Sequence[str],
    ) -> MergeWeightsStage:
        """The stage that finds the weights of checkpoints; random masks are those of adapters."""
        if merging.weights == "collaborative":
            return self._collaborative(target, parts, names)
        return TuneCheckpoints(
            label=f"choose λ for {target} ({merge_words(merging)}): {_names(parts)}",
            domain=self.plan.domains[target],
            scoring=self.plan.scoring,
            split=self.plan.split,
            validation=self.plan.validation(self.recipe.merge.validation_users, (5,)),
            method=_on_checkpoints(merging),
            parts=parts,
            names=_part_names(parts),
        )

    def _by_entropy(
        self, target: str, parts: tuple[AdapterStage, ...], names: Sequence[str]
    ) -> LearnByEntropy:
        """AdaMerging: weights for each module, from unlabelled prompts of every domain merged."""
        return LearnByEntropy(
            label=f"AdaMerging for {target}: {_names(parts)}",
            parts=parts,
            domains=tuple(self.plan.domains[name] for name in names),
            scoring=self.plan.scoring.for_training(),
            split=self.plan.split,
            adamerging=self.recipe.merge.adamerging,
            seed=seed_of(self.seed, "adamerging"),
        )

    def _collaborative(
        self,
        target: str,
        parts: tuple[AdapterStage, ...] | tuple[CheckpointStage, ...],
        names: Sequence[str],
    ) -> LearnWeights:
        """MergeRec's learning: part 0 speaks for the target's catalogue, each other part for its
        source's; from WeaveRec's own 1/(N + 1) unless the recipe says where to start."""
        settings = self.recipe.merge.collaborative
        if settings.initial is None:
            settings = settings.model_copy(update={"initial": 1 / len(parts)})
        popular = settings.probes.choose == "popular"
        return LearnWeights(
            label=f"learn weights for {target}: {_names(parts)}",
            parts=parts,
            names=tuple(names),
            catalogues=tuple(self.plan.catalogue(name) for name in names),
            counts=tuple(self.plan.item_counts(name) for name in names) if popular else (),
            scoring=self.plan.scoring,
            collaborative=settings,
            seed=seed_of(self.seed, "learn"),
        )

    # --- the study

    def rows(self) -> list[StudyRow]:
        return weaverec_rows(self)

    def branch(self, stage: TrainingStage) -> Branch:
        return weaverec_branch(self.recipe, stage)

    def notes(self, run: Path) -> list[str]:
        return small_settings_note(self.recipe)

    def training_words(self) -> str:
        return weaverec_training_words(self.recipe)


def _on_checkpoints(merging: Merging) -> dict[str, Any]:
    """The method that does to checkpoints what `merging`'s does to adapters. A sum of ΔW is one of
    task vectors: θ_base + Σ λ_k (θ_k - θ_base), which is Σ λ_k θ_k where the weights sum to 1."""
    method = make_method(merging.method)
    return method_options(
        make_method("task_arithmetic" if method == make_method("linear") else method)
    )


def _all_of(kind: type[P], parts: Sequence[object]) -> tuple[P, ...]:
    """The parts, which are all of one kind."""
    chosen = tuple(part for part in parts if isinstance(part, kind))
    assert len(chosen) == len(parts)
    return chosen


def _part_names(parts: Sequence[object]) -> tuple[str, ...]:
    return tuple(f"part {number}" for number in range(1, len(parts) + 1))


def _names(parts: Sequence[AdapterStage] | Sequence[CheckpointStage] | Sequence[Trained]) -> str:
    return " + ".join(part.label.removeprefix("train ") for part in parts)
