"""The stages of integration: choosing sources, training an integrator on the target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from weft.adapters import Adapter
from weft.artifacts.atomic import read_json, write_json
from weft.backbones import load_backbone
from weft.data.splits import Split, SplitSettings, make_split, sample_train
from weft.errors import SettingError
from weft.evaluation.protocol import EvaluationSettings
from weft.integration import IntegratorSettings
from weft.recommenders.contract import Recommender
from weft.recommenders.integrated import IntegratedBackbone, StoredActivations
from weft.recommenders.text.cross_encoder import CrossEncoder, CrossEncoderSettings
from weft.stages.stage import OUTSIDE_KEY, Workspace
from weft.systems.stages.base import DomainSizes, Group, Work
from weft.systems.stages.choice import CHOICE, ChoiceStage
from weft.systems.stages.domains import PrepareDomain
from weft.systems.stages.evaluation import EvaluateWithText, ValidationUsers
from weft.systems.stages.merging import chosen_adapters
from weft.systems.stages.scoring import ScoringStage
from weft.systems.stages.training import TrainBranch, TrainingStage
from weft.systems.stages.weights import AdapterStage

INTEGRATOR = "integrator"
FACTS = "training.json"
BY = "mrr@10"  # what sources are chosen by


@dataclass(frozen=True)
class TrainingFacts:
    """What is known of an integrator's training beside its weights and its curve."""

    examples: int  # fewer than asked for where the log has fewer
    prompts: int
    mean_tokens: float  # of a prompt
    tokens_deviation: float  # standard deviation
    integrator_numbers: int  # that were trained
    head_numbers: int


@dataclass(frozen=True, kw_only=True, eq=False)
class ChooseSources(ScoringStage, ChoiceStage):
    """Every adapter on the target's hold-out, untrained on it; the best are chosen.

    The hold-out are validation users: test targets are not looked at. The target's own adapter is
    measured beside them and not chosen.
    """

    group: ClassVar[Group] = "evaluation"

    domain: PrepareDomain
    parts: tuple[TrainBranch, ...]
    target_part: TrainBranch | None = None
    split: SplitSettings
    holdout: EvaluationSettings
    count: int

    def describe(self) -> str:
        return f"choose sources for {self.domain.name}"

    @property
    def measured_parts(self) -> list[TrainBranch]:
        """Those to choose from, then the one that is not chosen."""
        return [*self.parts, *([] if self.target_part is None else [self.target_part])]

    def work(self, sizes: Mapping[str, DomainSizes]) -> Work:
        domain = sizes[self.domain.name]
        one = self.measuring_work(domain, self.holdout, domain.validation)
        return one.times(len(self.measured_parts))

    def run(self, workspace: Workspace) -> None:
        domain = self.domain.domain(workspace.run)
        split = make_split(domain, self.split)
        users = ValidationUsers(workspace, self.holdout, len(self.measured_parts))
        measured: list[dict[str, Any]] = []
        for part in self.measured_parts:
            scorer = self.scoring.open(domain.items, part.adapter(workspace.run))
            metrics = users.metrics(scorer, split)
            measured.append({"source": "+".join(part.domain_names), **metrics})
        order = sorted(range(len(self.parts)), key=lambda i: (-measured[i][BY], i))
        shown = min(self.holdout.users or len(split.validation), len(split.validation))
        record = {"chosen": order[: self.count], "by": BY, "users": shown, "measured": measured}
        write_json(workspace.out / CHOICE, record)

    def measured(self, run: Path) -> dict[str, dict[str, float]]:
        """Domain -> the metrics of its adapter on the hold-out."""
        return {str(one.pop("source")): one for one in self.record(run)["measured"]}

    def users(self, run: Path) -> int:
        """How many validation users the hold-out has."""
        return int(self.record(run)["users"])

    def names(self, run: Path) -> list[str]:
        """The domains of the chosen, best first."""
        measured = self.record(run)["measured"]
        return [str(measured[place]["source"]) for place in self.chosen(run)]


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluateBestSource(EvaluateWithText):
    """The best of the chosen sources as it is."""

    parts: tuple[AdapterStage, ...]
    choice: ChooseSources

    def scorer(self, run: Path, split: Split) -> Recommender:
        best = self.parts[self.choice.chosen(run)[0]]
        return best.recommender(run, self.scoring, split.train.domain.items)


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainIntegrator(TrainingStage):
    """One integrator over the chosen adapters, trained on examples of the target."""

    parts: tuple[AdapterStage, ...]
    choice: ChooseSources
    integrator: IntegratorSettings
    by_example: bool  # frozen activations are computed for each example, not for each batch
    activations: int = field(metadata=OUTSIDE_KEY)  # bytes on disk for them

    @property
    def pace_group(self) -> str:
        return f"{super().pace_group} {self.integrator.kind}"

    def run(self, workspace: Workspace) -> None:
        (split,) = self.splits(workspace.run)
        adapters = chosen_adapters(self.parts, self.choice, workspace.run)
        adapters = list(self.integrator.sources(adapters))
        backbone = self._backbone(adapters, workspace)
        recommender = CrossEncoder(backbone, self._settings)
        recommender.prepare([split.train])
        examples = sample_train(split.train, self.examples, self.data_seed)
        lengths = recommender.training_rows(examples).lengths
        trainable = backbone.trainable()
        facts = TrainingFacts(
            examples=len(examples),
            prompts=len(lengths),
            mean_tokens=float(np.mean(lengths)),
            tokens_deviation=float(np.std(lengths)),
            integrator_numbers=trainable["integrator"],
            head_numbers=trainable["head"],
        )
        write_json(workspace.out / FACTS, asdict(facts))
        hashes = [one.weights_hash for one in adapters]
        start = f"{recommender.backbone.fingerprint} {hashes}"
        outcome = self.train_on(workspace, recommender, [split], start)
        manifest = self.manifest([split], outcome) | {
            "best": 0,
            "examples": len(examples),
            "trained": trainable,
        }
        del manifest["branch"]
        (workspace.out / INTEGRATOR).mkdir()
        recommender.write(workspace.out / INTEGRATOR, manifest)

    @property
    def _settings(self) -> CrossEncoderSettings:
        settings = self.scoring.recommender
        if not isinstance(settings, CrossEncoderSettings):
            raise SettingError("integrators are trained on cross-encoders")
        return settings

    def _backbone(self, adapters: list[Adapter], workspace: Workspace) -> IntegratedBackbone:
        scoring, stored = self.scoring, None
        if self.activations:
            stored = StoredActivations(workspace.shared("activations"), self.activations)
        return IntegratedBackbone(
            load_backbone(scoring.backbone, precision=scoring.precision, device=scoring.device),
            adapters,
            self.integrator,
            seed=self.seed,
            activations=stored,
        )

    # --- what it leaves

    def weights_folder(self, run: Path) -> Path:
        return self.folder(run) / INTEGRATOR

    def facts(self, run: Path) -> TrainingFacts:
        return TrainingFacts(**read_json(self.folder(run) / FACTS))
