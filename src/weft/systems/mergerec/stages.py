"""The stages of MergeRec's rivals: one weight for all parts, chosen on validation users."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from weft.artifacts.atomic import write_json
from weft.data.splits import SplitSettings, make_split
from weft.evaluation.protocol import EvaluationSettings
from weft.merging.methods import make_method
from weft.stages.stage import Workspace
from weft.systems.recipe import MethodSpec
from weft.systems.stages.base import DomainSizes, Group, Work
from weft.systems.stages.choice import CHOICE, ChoiceStage
from weft.systems.stages.domains import PrepareDomain
from weft.systems.stages.evaluation import ValidationUsers
from weft.systems.stages.merging import WEIGHTS, MergeWeightsStage, merge_checkpoints
from weft.systems.stages.scoring import ScoringStage
from weft.systems.stages.training import metric_at
from weft.systems.stages.weights import CHECKPOINT, CheckpointStage


@dataclass(frozen=True)
class TriedWeights:
    """What some weights reached on validation users: NDCG@10, the mean and of each domain."""

    weights: list[float]
    mean: float
    domains: list[float]


@dataclass(frozen=True, kw_only=True, eq=False)
class ChooseUniform(ScoringStage, MergeWeightsStage):
    """The weight, the same for all parts, that is best over validation users of all domains: mean
    over the domains of NDCG@10. The test targets are not looked at."""

    group: ClassVar[Group] = "evaluation"

    parts: tuple[CheckpointStage, ...]
    names: tuple[str, ...]
    domains: tuple[PrepareDomain, ...]
    method: MethodSpec
    among: tuple[float, ...]  # none: the method's default
    split: SplitSettings
    validation: EvaluationSettings

    def work(self, sizes: Mapping[str, DomainSizes]) -> Work:
        work = Work(merges=1)
        for one in self.domains:
            domain = sizes[one.name]
            work += self.measuring_work(domain, self.validation, domain.validation)
        return work.times(max(1, len(self.among)))

    def run(self, workspace: Workspace) -> None:
        run = workspace.run
        parts = [one.checkpoint(run) for one in self.parts]
        default = make_method(self.method).default_weights(len(parts))
        grid = [[float(value)] * len(parts) for value in self.among] or [default]
        domains = [one.domain(run) for one in self.domains]
        splits = [make_split(domain, self.split) for domain in domains]
        folder, metric = workspace.scratch / CHECKPOINT, metric_at(self.validation, 10)
        users = ValidationUsers(workspace, self.validation, len(grid) * len(domains))
        tried: list[dict[str, Any]] = []
        for weights in grid:
            shutil.rmtree(folder, ignore_errors=True)
            merge_checkpoints(
                parts, self.names, self.method, weights, self.scoring.backbone, folder
            )
            values: list[float] = []
            for domain, split in zip(domains, splits, strict=True):
                scorer = self.scoring.open(domain.items, backbone=str(folder))
                values.append(users.metrics(scorer, split)[metric])
            tried.append({"weights": weights, "ndcg@10": float(np.mean(values)), "domains": values})
        best = max(tried, key=lambda one: float(one["ndcg@10"]))
        write_json(workspace.out / WEIGHTS, best | {"tried": tried})

    def tried(self, run: Path) -> list[TriedWeights]:
        """Every weight that it tried, in the recipe's order."""
        return [
            TriedWeights(one["weights"], one["ndcg@10"], one["domains"])
            for one in self.record(run)["tried"]
        ]

    def best(self, run: Path) -> float:
        """What the weights that it took reached: the mean over the domains."""
        return float(self.record(run)["ndcg@10"])


@dataclass(frozen=True, kw_only=True, eq=False)
class ChooseMerge(ChoiceStage):
    """The best of several uniform merges by what they reached on validation users."""

    choices: tuple[ChooseUniform, ...]

    def describe(self) -> str:
        return "choose a uniform merge"

    def run(self, workspace: Workspace) -> None:
        reached = [one.best(workspace.run) for one in self.choices]
        record = {"chosen": [int(np.argmax(reached))], "ndcg@10": reached}
        write_json(workspace.out / CHOICE, record)
