"""Everything that a reported number depends on, besides the recommender."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field, field_validator

from weft.data.splits import AnySplit, LeaveOneOut
from weft.evaluation.candidates import CandidateSettings
from weft.settings import StrictModel


class EvaluationSettings(StrictModel):
    """The `evaluate:` block of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    split: AnySplit = LeaveOneOut()
    candidates: CandidateSettings | None = CandidateSettings()
    full: bool = True
    mask_history: bool | Literal["both"] = Field(
        default=False, description="of the whole catalogue: leave out what is in the history"
    )
    at: tuple[int, ...] = (1, 3, 5, 10)
    seed: int = 0
    users: int | None = Field(default=None, ge=1)
    ties: Literal["expected metric"] = "expected metric"

    def masking(self, mask: bool) -> EvaluationSettings:
        """The same with one masking."""
        return self.model_copy(update={"mask_history": mask})

    @field_validator("at")
    @classmethod
    def _sorted_cut_offs(cls, at: tuple[int, ...]) -> tuple[int, ...]:
        if not at or min(at) < 1:
            raise ValueError("at needs one or more cut-offs of 1 or above")
        return tuple(sorted(set(at)))


class Protocol(StrictModel):
    """The record that goes with every result; two results compare only if theirs agree.

    `ties`: "expected metric" is the mean of the metric over all orders of a tie; "expected rank",
    of older results, is the metric at the mean rank, which lies below it wherever many tie.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    domain: str
    domain_hash: str
    split: str
    part: str
    users: int = Field(ge=1)
    targets: int = Field(ge=1)
    items: int | None = Field(default=None, ge=1, description="in the catalogue; None: older")
    users_hash: str = Field(description="of every user, target and position")
    candidates: CandidateSettings | None
    candidates_hash: str | None = Field(description="of the very items drawn")
    seed: int
    full: bool
    mask_history: bool
    ties: Literal["expected metric", "expected rank"] = "expected metric"
    at: tuple[int, ...]

    @property
    def among(self) -> int | None:
        """How many items a target is ranked among, itself included; None without candidates."""
        return None if self.candidates is None else 1 + self.candidates.drawn


def differences(a: Protocol, b: Protocol) -> list[str]:
    """The names of the fields that are not equal, in order."""
    return [name for name in Protocol.model_fields if getattr(a, name) != getattr(b, name)]
