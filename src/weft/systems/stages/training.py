"""Training branches: of an adapter, or of every parameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from weft import __version__
from weft.adapters import LoraSettings
from weft.artifacts.atomic import new_directory, read_json, write_json
from weft.data.splits import Split, SplitSettings, make_split, sample_train
from weft.evaluation.candidates import train_counts
from weft.evaluation.evaluate import evaluate
from weft.evaluation.protocol import EvaluationSettings
from weft.recommenders.contract import BackboneRecommender, Recommender
from weft.stages.stage import Workspace
from weft.systems.stages.base import DomainSizes, Group, Work
from weft.systems.stages.domains import PrepareDomain
from weft.systems.stages.scoring import ScoringStage
from weft.systems.stages.start import continue_from
from weft.systems.stages.weights import (
    ADAPTER,
    CHECKPOINT,
    AdapterStage,
    CheckpointStage,
    WeightsStage,
    split_json,
)
from weft.training import Trained, TrainingFiles, TrainSettings, train
from weft.training.batches import seed_of

CURVE = "curve.json"
ENDING = "ending.json"  # [loss, mean ln of batch sizes] of the last steps


def branch_seed(seed: int, domains: Sequence[str], member: int = 0) -> int:
    """The training seed of a branch: of the run's seed, its set of domains, and which twin it is."""
    return seed_of(seed, "branch", sorted(domains), member)


@dataclass(frozen=True, kw_only=True, eq=False)
class LearnFiles(ScoringStage):
    """The files that travel with a recommender's weights (codebooks), fitted on all domains: once for
    all branches, so that these can be merged."""

    domains: tuple[PrepareDomain, ...]
    split: SplitSettings

    def describe(self) -> str:
        return f"prepare {self.scoring.recommender.kind} on all domains"

    def run(self, workspace: Workspace) -> None:
        recommender = self.scoring.open(None)
        splits = (make_split(one.domain(workspace.run), self.split) for one in self.domains)
        recommender.prepare([split.train for split in splits])
        recommender.write_files(workspace.out)


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingStage(ScoringStage, WeightsStage):
    """A training on the examples of one or more domains; it leaves its learning curve."""

    group: ClassVar[Group] = "training"

    domains: tuple[PrepareDomain, ...]
    split: SplitSettings
    examples: int  # drawn of each domain
    train: TrainSettings
    validation: EvaluationSettings | None
    data_seed: int  # of the draw
    seed: int  # of batches and dropout
    shared_files: LearnFiles | None = None  # None: the recommender prepares on its own domains

    @property
    def domain_names(self) -> list[str]:
        return [one.name for one in self.domains]

    def work(self, sizes: Mapping[str, DomainSizes]) -> Work:
        domains = [sizes[name] for name in self.domain_names]
        drawn = sum(min(self.examples, domain.train) for domain in domains)
        work = Work(examples=drawn * self.train.epochs)
        if self.validation is None:
            return work
        steps = work.examples / (self.train.batch * self.train.accumulate)
        every = self.train.validate_every
        count = 1 + (steps // every if every else 0)
        for domain in domains:
            one = self.measuring_work(domain, self.validation, domain.validation)
            work += one.times(count)
        return work

    # --- what it leaves

    def has_curve(self, run: Path) -> bool:
        return (self.folder(run) / CURVE).is_file()

    def curve(self, run: Path) -> list[tuple[int, float | None, float | None]]:
        """(step, mean loss since the last point or None, validation or None)"""
        points = read_json(self.folder(run) / CURVE)
        return [(int(step), loss, value) for step, loss, value in points]

    def ending(self, run: Path) -> list[tuple[float, float]]:
        """(loss, mean ln of the batches' sizes) of each of the last steps"""
        return [(loss, size) for loss, size in read_json(self.folder(run) / ENDING)]

    # --- the work

    def splits(self, run: Path) -> list[Split]:
        """Of its domains."""
        return [make_split(one.domain(run), self.split) for one in self.domains]

    def train_on(
        self, workspace: Workspace, recommender: Recommender, splits: Sequence[Split], start: str
    ) -> Trained:
        """Train what is trainable on drawn examples of the splits, and write the curve; `start` is
        a word for the initial weights."""
        parts = [
            sample_train(recommender.training_examples(split.train), self.examples, self.data_seed)
            for split in splits
        ]
        settings = self.train
        size = settings.batch * settings.accumulate
        if self.shared_files is None:
            recommender.prepare([split.train for split in splits])
        else:
            recommender.read_files(workspace.folder(self.shared_files))
        trained = train(
            recommender,
            parts,
            settings,
            seed=self.seed,
            files=TrainingFiles(
                workspace.scratch, start, workspace.out / "trackers" if settings.trackers else None
            ),
            validate=self._validator(recommender, splits),
            report=lambda step, steps, _: workspace.report(step * size, steps * size, "examples"),
        )
        write_json(workspace.out / CURVE, trained.curve)
        write_json(workspace.out / ENDING, trained.ending)
        return trained

    def _validator(
        self, recommender: Recommender, splits: Sequence[Split]
    ) -> Callable[[], float] | None:
        """Mean over the domains of NDCG@10 on some validation users; None if none are asked for."""
        settings = self.validation
        if settings is None:
            return None

        def validate() -> float:
            values = []
            for split in splits:
                recommender.use(split.validation.domain.items)
                counts = train_counts(split.train)
                result = evaluate(
                    recommender, split.validation, settings, part="validation", counts=counts
                )
                values.append(result.metrics()[metric_at(settings, 10)])
            return float(np.mean(values))

        return validate

    def manifest(self, splits: Sequence[Split], trained: Trained) -> dict[str, Any]:
        """What weft.json says of the weights."""
        domains = [split.train.domain for split in splits]
        return {
            "domains": [domain.name for domain in domains],
            "data": {domain.name: domain.hash for domain in domains},
            "branch": "+".join(self.domain_names),
            "seed": self.seed,
            "steps": trained.kept_step,
            "recommender": self.scoring.recommender.model_dump(mode="json"),
            "split": split_json(self.split),
            "versions": {"weft": __version__},
        }


def metric_at(settings: EvaluationSettings, k: int) -> str:
    """NDCG@k among candidates, or in the whole catalogue where there are none."""
    return f"ndcg@{k}" if settings.candidates else f"full/ndcg@{k}"


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainCheckpoint(CheckpointStage, TrainingStage):
    """One branch whose every parameter is trained: a checkpoint, with the backbone's files.

    From the backbone, or from the checkpoint that another stage left: a branch, or a merge.
    """

    start: CheckpointStage | None = None

    def run(self, workspace: Workspace) -> None:
        backbone = None if self.start is None else str(self.start.checkpoint(workspace.run))
        recommender = self.scoring.trainable(None, backbone=backbone)
        splits = self.splits(workspace.run)
        trained = self.train_on(workspace, recommender, splits, recommender.weights_hash)
        with new_directory(workspace.out / CHECKPOINT) as folder:
            recommender.write(folder, self.manifest(splits, trained))


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainBranch(AdapterStage, TrainingStage):
    """One LoRA branch.

    Its factors start as `init_seed` draws them, on the backbone. With an adapter's stage as `start`
    (a branch, a merge) training goes on from that adapter; with a checkpoint's the factors start
    anew, on the checkpoint in the backbone's place.
    """

    version: ClassVar[int] = 3

    lora: LoraSettings
    init_seed: int
    start: AdapterStage | CheckpointStage | None = None

    def backbone(self, run: Path) -> str | None:
        if isinstance(self.start, AdapterStage):
            return self.start.backbone(run)
        return None if self.start is None else str(self.start.checkpoint(run))

    def run(self, workspace: Workspace) -> None:
        run, start = workspace.run, self.start
        recommender = self.scoring.trainable(self.lora, self.init_seed, backbone=self.backbone(run))
        words = [recommender.weights_hash, str(self.init_seed)]
        if isinstance(start, AdapterStage):
            adapter = start.adapter(run)
            assert isinstance(recommender, BackboneRecommender)
            continue_from(recommender.attached, recommender.whole_modules(), adapter)
            words.append(adapter.weights_hash)
        splits = self.splits(run)
        trained = self.train_on(workspace, recommender, splits, " ".join(words))
        with new_directory(workspace.out / ADAPTER) as folder:
            recommender.write(folder, self.manifest(splits, trained))
