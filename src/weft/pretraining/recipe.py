"""The recipe of a backbone that is trained from scratch: what to read, its shape, its training."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field

from weft.backbones.load import Precision
from weft.backbones.shapes import Shape
from weft.errors import located
from weft.recipes import recipe_file
from weft.recipes.purposes import BACKBONE, check_purpose
from weft.settings import StrictModel
from weft.settings.files import read_mapping, read_settings
from weft.text.corpus import CorpusSettings
from weft.training import TrainSettings


class PretrainTraining(TrainSettings):
    """The training loop's settings, for blocks of text."""

    tokens: int = Field(default=10_000_000, ge=1, description="to read in all")
    block: int = Field(default=768, ge=16, description="tokens in a row of a batch")
    epochs: int = Field(default=1, ge=1, le=1, description="one: passes follow from `tokens`")
    batch: int = Field(default=8, ge=2, description="blocks in one forward pass")
    learning_rate: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    schedule: Literal["linear", "cosine"] = "cosine"
    validation_blocks: int = Field(default=64, ge=1, description="at most, for the perplexity")

    @property
    def block_count(self) -> int:
        """Blocks that are read in all, a whole number of optimiser steps."""
        steps = -(-self.tokens // (self.block * self.batch * self.accumulate))
        return steps * self.batch * self.accumulate

    @property
    def loop(self) -> TrainSettings:
        """What of it the training loop takes."""
        return TrainSettings.model_validate(
            self.model_dump(include=set(TrainSettings.model_fields))
        )


class PretrainRecipe(StrictModel):
    """What to read, the model's shape, and how to train it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = ""
    catalogues: tuple[str, ...] = Field(min_length=1, description="folders under --data")
    shape: Shape = Shape()
    corpus: CorpusSettings = CorpusSettings()
    train: PretrainTraining = PretrainTraining()
    precision: Precision = "auto"
    seed: int = 0


def load_pretrain_recipe(path: Path | str) -> PretrainRecipe:
    """Read a recipe: a file, or the name of one that comes with weft. Raises `SettingError`, one
    sentence that names file and field."""
    path = recipe_file(path)
    with located(path):
        check_purpose(read_mapping(path), BACKBONE)
    return read_settings(path, PretrainRecipe, {"name": path.stem})
