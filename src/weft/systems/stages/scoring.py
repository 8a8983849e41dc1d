"""What decides how a recommender reads and scores: the same in every stage that encodes text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict

from weft.adapters import Adapter, LoraSettings
from weft.backbones import Precision
from weft.data.domain import Catalogue
from weft.evaluation.protocol import EvaluationSettings
from weft.recommenders.contract import Recommender
from weft.recommenders.forms import Opening
from weft.recommenders.kinds import RecommenderBlock, make_recommender, new_recommender
from weft.recommenders.saved import open_recommender
from weft.settings import StrictModel
from weft.systems.stages.base import DomainSizes, RecipeStage, Work


class ScoringSettings(StrictModel):
    """A backbone, how items are scored on it, and in which numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backbone: str
    files: str  # hash of the backbone's files
    recommender: RecommenderBlock
    precision: Precision
    device: str

    def for_training(self) -> ScoringSettings:
        """With what training does not look at as it is by default."""
        return self.model_copy(update={"recommender": self.recommender.for_training()})

    def open(
        self,
        catalogue: Catalogue | None,
        adapter: Adapter | None = None,
        *,
        backbone: str | None = None,
    ) -> Recommender:
        """The recommender, for use; `backbone` is a checkpoint's folder that stands in the
        backbone's place."""
        return make_recommender(
            backbone or self.backbone,
            self.recommender,
            catalogue,
            adapter=adapter,
            precision=self.precision,
            device=self.device,
        )

    def open_folder(
        self, folder: Path, catalogue: Catalogue | None, *, backbone: str | None = None
    ) -> Recommender:
        """The recommender of the weights in a folder, for use; `backbone` as above."""
        opening = Opening(self.precision, self.device, backbone=backbone or self.backbone)
        return open_recommender(folder, catalogue, opening, settings=self.recommender)

    def trainable(
        self, lora: LoraSettings | None, seed: int = 0, *, backbone: str | None = None
    ) -> Recommender:
        """The recommender, to be trained: LoRA factors, or without `lora` all parameters."""
        return new_recommender(
            backbone or self.backbone,
            self.recommender,
            lora=lora,
            seed=seed,
            precision=self.precision,
            device=self.device,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoringStage(RecipeStage):
    """A stage in which a recommender reads text."""

    scoring: ScoringSettings

    @property
    def uses_gpu(self) -> bool:
        return not self.scoring.device.startswith("cpu")

    @property
    def pace_group(self) -> str:
        recommender = self.scoring.recommender
        return f"{type(self).__name__} {recommender.pace}"

    def measuring_work(self, sizes: DomainSizes, settings: EvaluationSettings, users: int) -> Work:
        """The work of measuring so many users of a domain, or as many as the settings draw."""
        users = min(users, settings.users or users)
        if self.scoring.recommender.reads_items_once:  # a text is read once for all users
            return Work(titles=sizes.items, users=users)
        if settings.full or settings.candidates is None:
            return Work(titles=users * sizes.items, users=users)
        return Work(titles=users * (1 + settings.candidates.drawn), users=users)
