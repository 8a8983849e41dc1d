"""How a branch is trained; the `branches:` block of a recipe holds one of these."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import ConfigDict, Field

from weft.settings import StrictModel


class TrainSettings(StrictModel):
    """Settings of the one training loop. Steps are optimiser steps; rates are AdamW's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ASIDE: ClassVar[frozenset[str]] = frozenset(
        {"trackers", "checkpoint_every", "checkpoint_every_seconds"}
    )
    """The settings that change nothing but what is written on the way."""

    epochs: int = Field(default=1, ge=1)
    batch: int = Field(default=64, ge=1, description="examples in one forward pass")
    accumulate: int = Field(default=1, ge=1, description="forward passes in one optimiser step")
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup: float = Field(default=0.05, ge=0, lt=1, description="share of all steps")
    schedule: Literal["linear", "cosine"] = "linear"
    clip: float = Field(default=1.0, gt=0, description="largest gradient norm")
    gradient_checkpointing: bool = False
    validate_every: int | None = Field(default=None, ge=1, description="steps; none: at the end")
    patience: int | None = Field(
        default=None, ge=1, description="validations without a gain before it stops early"
    )
    keep: Literal["last", "best"] = "last"
    checkpoint_every: int | None = Field(
        default=None, ge=1, description="steps, beside the seconds; none: by time alone"
    )
    checkpoint_every_seconds: float = Field(
        default=60.0, ge=0, allow_inf_nan=False, description="that a kill loses at most"
    )
    log_every: int = Field(default=10, ge=1, description="steps between points of the loss curve")
    trackers: tuple[str, ...] = Field(
        default=(), description="accelerate's names: tensorboard, mlflow, wandb"
    )
