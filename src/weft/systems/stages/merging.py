"""Static merges, of adapters and of checkpoints, and their weights by validation users."""

from __future__ import annotations

import shutil
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from weft.adapters import Adapter, save_adapter
from weft.artifacts.atomic import read_json, write_json
from weft.artifacts.travelling import carry_files
from weft.backbones.load import find_backbone
from weft.data.domain import Domain
from weft.data.splits import SplitSettings, make_split
from weft.evaluation.protocol import EvaluationSettings
from weft.merging import Space, merge_adapters
from weft.merging.merge import plan_merge
from weft.merging.methods import make_method
from weft.merging.weights import resolve_weights
from weft.recommenders.contract import Recommender
from weft.stages.stage import Workspace
from weft.systems.recipe import MethodSpec
from weft.systems.stages.base import DomainSizes, Group, RecipeStage, Work
from weft.systems.stages.choice import ChoiceStage
from weft.systems.stages.domains import PrepareDomain
from weft.systems.stages.evaluation import ValidationUsers
from weft.systems.stages.scoring import ScoringSettings, ScoringStage
from weft.systems.stages.training import metric_at
from weft.systems.stages.weights import (
    ADAPTER,
    CHECKPOINT,
    AdapterStage,
    CheckpointStage,
)

WEIGHTS = "weights.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class MergeWeightsStage(RecipeStage):
    """A stage that leaves the weights of a merge."""

    def record(self, run: Path) -> dict[str, Any]:
        """All that it wrote: `weights`, and what its kind adds."""
        record: dict[str, Any] = read_json(self.folder(run) / WEIGHTS)
        return record

    def weights(self, run: Path) -> Any:
        """A number for each part, rules for each part, or numbers for each module."""
        return self.record(run)["weights"]


Weights = tuple[float, ...] | MergeWeightsStage | None
"""Of a merge: one for each part, those that a stage has found, or the method's default."""


def weights_in(weights: Weights, run: Path) -> Any:
    if isinstance(weights, MergeWeightsStage):
        return weights.weights(run)
    return None if weights is None else list(weights)


def chosen_adapters(
    parts: Sequence[AdapterStage], choice: ChoiceStage | None, run: Path
) -> list[Adapter]:
    """The adapters of the parts, or of those that a choice took, in its order."""
    if choice is not None:
        parts = [parts[place] for place in choice.chosen(run)]
    return [one.adapter(run) for one in parts]


@dataclass(frozen=True, kw_only=True, eq=False)
class MergeAdapters(AdapterStage):
    """One adapter out of several, by any method."""

    version: ClassVar[int] = 3

    parts: tuple[AdapterStage, ...]
    choice: ChoiceStage | None = None
    method: MethodSpec = "linear"
    space: Space = "delta"
    rank: int | None = None
    weights: tuple[float, ...] | MergeWeightsStage

    def work(self, sizes: Mapping[str, DomainSizes]) -> Work:
        return Work(merges=1)

    def backbone(self, run: Path) -> str | None:
        return self.parts[0].backbone(run)

    def run(self, workspace: Workspace) -> None:
        parts = chosen_adapters(self.parts, self.choice, workspace.run)
        weights = weights_in(self.weights, workspace.run)
        if isinstance(weights, dict):  # of each module
            weights = weights.__getitem__
        elif weights and isinstance(weights[0], list):  # rules for each part
            labels = [str(number) for number in range(len(parts))]
            weights = resolve_weights(weights, list(parts[0].factors), labels)
        merged = merge_adapters(parts, self.method, weights, space=self.space, rank=self.rank)
        save_adapter(merged, workspace.out / ADAPTER)
        sources = [one.weights_folder(workspace.run) for one in self.parts]
        carry_files(sources, workspace.out / ADAPTER)


@dataclass(frozen=True, kw_only=True, eq=False)
class MergeCheckpoints(CheckpointStage):
    """One checkpoint out of several, in float32: what `weft merge` gives of the recipe."""

    parts: tuple[CheckpointStage, ...]
    names: tuple[str, ...]
    method: MethodSpec
    scoring: ScoringSettings
    weights: Weights

    def work(self, sizes: Mapping[str, DomainSizes]) -> Work:
        return Work(merges=1)

    def run(self, workspace: Workspace) -> None:
        parts = [one.checkpoint(workspace.run) for one in self.parts]
        weights = weights_in(self.weights, workspace.run)
        out = workspace.out / CHECKPOINT
        merge_checkpoints(parts, self.names, self.method, weights, self.scoring.backbone, out)


def merge_checkpoints(
    parts: Sequence[Path],
    names: Sequence[str],
    method: MethodSpec,
    weights: Any,
    backbone: str,
    out: Path,
) -> None:
    """Merge checkpoints into the folder `out`, which is not there yet."""
    kernel = make_method(method)
    base = str(find_backbone(backbone)) if kernel.needs_base else None
    job = plan_merge(parts, kernel, weights, base=base, dtype="float32", labels=list(names))
    job.run(out)


def tuning_grid(count: int) -> list[list[float]]:
    """The weights tried for so many parts: λ of the first out of {0, ¼, ½, ¾, 1, uniform}, the rest
    shared equally.

    >>> tuning_grid(2)
    [[0.0, 1.0], [0.25, 0.75], [0.5, 0.5], [0.75, 0.25], [1.0, 0.0]]
    """
    firsts = sorted({0.0, 0.25, 0.5, 0.75, 1.0, 1 / count})
    return [[first] + [(1 - first) / (count - 1)] * (count - 1) for first in firsts]


@dataclass(frozen=True, kw_only=True, eq=False)
class TuneWeights(ScoringStage, MergeWeightsStage):
    """The weights of the grid that are best by NDCG@5 of validation users. The test targets are not
    looked at."""

    version: ClassVar[int] = 2
    group: ClassVar[Group] = "evaluation"

    domain: PrepareDomain
    split: SplitSettings
    validation: EvaluationSettings
    method: MethodSpec

    @property
    @abstractmethod
    def count(self) -> int:
        """Of the parts."""

    @abstractmethod
    def merged(self, workspace: Workspace, domain: Domain, weights: list[float]) -> Recommender:
        """The recommender of some weights."""

    def work(self, sizes: Mapping[str, DomainSizes]) -> Work:
        domain = sizes[self.domain.name]
        one = self.measuring_work(domain, self.validation, domain.validation)
        return (one + Work(merges=1)).times(len(tuning_grid(self.count)))

    def run(self, workspace: Workspace) -> None:
        domain = self.domain.domain(workspace.run)
        split = make_split(domain, self.split)
        grid, metric = tuning_grid(self.count), metric_at(self.validation, 5)
        users = ValidationUsers(workspace, self.validation, len(grid))
        tried: list[dict[str, Any]] = []
        for weights in grid:
            metrics = users.metrics(self.merged(workspace, domain, weights), split)
            tried.append({"weights": weights, "ndcg@5": metrics[metric]})
        best = max(tried, key=lambda one: float(one["ndcg@5"]))
        write_json(workspace.out / WEIGHTS, {"weights": best["weights"], "tried": tried})


@dataclass(frozen=True, kw_only=True, eq=False)
class TuneAdapters(TuneWeights):
    """Of a merge of adapters."""

    parts: tuple[AdapterStage, ...]
    space: Space = "delta"
    rank: int | None = None

    @property
    def count(self) -> int:
        return len(self.parts)

    def merged(self, workspace: Workspace, domain: Domain, weights: list[float]) -> Recommender:
        parts = [one.adapter(workspace.run) for one in self.parts]
        merged = merge_adapters(parts, self.method, weights, space=self.space, rank=self.rank)
        backbone = self.parts[0].backbone(workspace.run)
        recommender = self.scoring.open(domain.items, merged, backbone=backbone)
        recommender.read_files(self.parts[0].weights_folder(workspace.run))
        return recommender


@dataclass(frozen=True, kw_only=True, eq=False)
class TuneCheckpoints(TuneWeights):
    """Of a merge of checkpoints."""

    parts: tuple[CheckpointStage, ...]
    names: tuple[str, ...]

    @property
    def count(self) -> int:
        return len(self.parts)

    def merged(self, workspace: Workspace, domain: Domain, weights: list[float]) -> Recommender:
        folder = workspace.scratch / CHECKPOINT
        shutil.rmtree(folder, ignore_errors=True)
        parts = [one.checkpoint(workspace.run) for one in self.parts]
        merge_checkpoints(parts, self.names, self.method, weights, self.scoring.backbone, folder)
        recommender = self.scoring.open(domain.items, backbone=str(folder))
        recommender.read_files(parts[0])
        return recommender
