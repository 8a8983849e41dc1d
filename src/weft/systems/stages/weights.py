"""Stages that leave the weights of a recommender: an adapter, or a checkpoint.

A stage that leaves something else fulfils `WeightsStage` in the package of its system.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path

from weft.adapters import Adapter, load_adapter
from weft.data.domain import Catalogue, Domain
from weft.data.splits import SplitSettings, make_split
from weft.recommenders.contract import Recommender
from weft.recommenders.forms import read_form
from weft.recommenders.item_counts import ItemCounts
from weft.recommenders.saved import save_recommender
from weft.systems.stages.base import RecipeStage
from weft.systems.stages.scoring import ScoringSettings

ADAPTER, CHECKPOINT = "adapter", "checkpoint"


@dataclass(frozen=True)
class Published:
    """What goes into a recommender's folder beside its weights."""

    domain: Domain
    split: SplitSettings
    scoring: ScoringSettings

    @property
    def counts(self) -> ItemCounts:
        """How often each item was taken in training."""
        return ItemCounts.of(make_split(self.domain, self.split).train)


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightsStage(RecipeStage):
    """A stage that leaves the weights of a recommender."""

    @abstractmethod
    def weights_folder(self, run: Path) -> Path:
        """The folder that it leaves: an adapter's, a checkpoint's, any recommender's."""

    def backbone(self, run: Path) -> str | None:
        """The folder of the checkpoint that an adapter belongs to; None: the recipe's backbone."""
        return None

    def recommender(self, run: Path, scoring: ScoringSettings, catalogue: Catalogue) -> Recommender:
        """The recommender of these weights, for use."""
        folder = self.weights_folder(run)
        return scoring.open_folder(folder, catalogue, backbone=self.backbone(run))

    def publish(self, run: Path, place: Path, published: Published) -> None:
        """Write it as a recommender's folder, in place of one that is there."""
        weights = read_form(self.weights_folder(run))
        scoring = published.scoring.recommender.model_dump(mode="json")
        defaults = {"recommender": scoring, "split": split_json(published.split)}
        save_recommender(
            weights,
            published.domain.items,
            place,
            manifest={**defaults, **weights.manifest},
            counts=published.counts,
            replace=True,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class AdapterStage(WeightsStage):
    """Leaves an adapter."""

    def weights_folder(self, run: Path) -> Path:
        return self.folder(run) / ADAPTER

    def adapter(self, run: Path) -> Adapter:
        return load_adapter(self.weights_folder(run))


@dataclass(frozen=True, kw_only=True, eq=False)
class CheckpointStage(WeightsStage):
    """Leaves a checkpoint: every parameter, with the backbone's other files."""

    def weights_folder(self, run: Path) -> Path:
        return self.checkpoint(run)

    def checkpoint(self, run: Path) -> Path:
        return self.folder(run) / CHECKPOINT


def split_json(split: SplitSettings) -> object:
    """A split as manifests say it."""
    return split if isinstance(split, str) else split.model_dump(mode="json")
