"""Recommenders without a backbone: fitted on one domain's own interactions, and measured there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from weft import __version__
from weft.artifacts.atomic import new_directory
from weft.data.domain import Catalogue
from weft.data.splits import Split, SplitSettings, make_split
from weft.recommenders.contract import Recommender, RecommenderSettings
from weft.recommenders.forms import Opening
from weft.recommenders.kinds import new_recommender
from weft.recommenders.saved import open_recommender
from weft.stages.stage import Workspace
from weft.systems.stages.domains import PrepareDomain
from weft.systems.stages.evaluation import EvaluateRecommender
from weft.systems.stages.scoring import ScoringSettings
from weft.systems.stages.weights import WeightsStage, split_json
from weft.training import TrainingFiles, TrainSettings, train

RECOMMENDER = "recommender"


@dataclass(frozen=True, kw_only=True, eq=False)
class FitRecommender(WeightsStage):
    """A recommender of a kind that needs no backbone, on the whole training part of a domain."""

    domain: PrepareDomain
    recommender_settings: RecommenderSettings
    split: SplitSettings
    train: TrainSettings  # of what is trained by gradients
    seed: int
    device: str

    def describe(self) -> str:
        return f"fit {self.recommender_settings.kind} on {self.domain.name}"

    @property
    def uses_gpu(self) -> bool:
        return not self.device.startswith("cpu")

    def weights_folder(self, run: Path) -> Path:
        return self.folder(run) / RECOMMENDER

    def recommender(self, run: Path, scoring: ScoringSettings, catalogue: Catalogue) -> Recommender:
        return self.fitted(run, catalogue)

    def fitted(self, run: Path, catalogue: Catalogue) -> Recommender:
        """The recommender, for use."""
        return open_recommender(self.weights_folder(run), catalogue, Opening(device=self.device))

    def run(self, workspace: Workspace) -> None:
        part = make_split(self.domain.domain(workspace.run), self.split).train
        domain, settings = part.domain, self.train
        recommender = new_recommender(
            None, self.recommender_settings, domain.items, seed=self.seed, device=self.device
        )
        recommender.prepare([part])
        if recommender.model is not None:
            size = settings.batch * settings.accumulate
            logs = workspace.out / "trackers" if settings.trackers else None
            train(
                recommender,
                [part],
                settings,
                seed=self.seed,
                files=TrainingFiles(workspace.scratch, recommender.weights_hash, logs),
                report=lambda step, of, _: workspace.report(step * size, of * size, "examples"),
            )
        manifest = {
            "domains": [domain.name],
            "data": {domain.name: domain.hash},
            "split": split_json(self.split),
            "seed": self.seed,
            "versions": {"weft": __version__},
        }
        with new_directory(workspace.out / RECOMMENDER) as folder:
            recommender.write(folder, manifest)


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluateFitted(EvaluateRecommender):
    """Such a recommender on the test users of its domain."""

    fit: FitRecommender

    @property
    def uses_gpu(self) -> bool:
        return self.fit.uses_gpu

    @property
    def pace_group(self) -> str:
        return f"evaluation {self.fit.recommender_settings.pace}"

    def scorer(self, run: Path, split: Split) -> Recommender:
        return self.fit.fitted(run, split.train.domain.items)
