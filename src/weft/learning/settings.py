"""How merging weights are learned from catalogues: the settings of a recipe's `collaborative`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from weft.learning.groups import Grouping
from weft.learning.objectives import Distillation, Entropy, Objective, Recommendation, WeightedSum
from weft.learning.probes import ProbeSettings
from weft.merging.methods import make_method
from weft.settings import StrictModel, field_errors


class CollaborativeSettings(StrictModel):
    """How merging weights are learned; the defaults are MergeRec's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str | dict[str, Any] = Field(
        default="task_arithmetic", description="any that keeps the parts apart"
    )
    weights: Grouping = Field(
        default="domain", description="one a domain, or one a domain and transformer block"
    )
    initial: float | None = Field(
        default=None, description="every weight at the start; the method's own unless given"
    )
    recommendation: float = Field(default=1.0, ge=0, description="factor of L_Rec")
    distillation: float = Field(default=1000.0, ge=0, description="λ, factor of L_KD")
    entropy: float = Field(default=0.0, ge=0, description="factor of AdaMerging's entropy")
    labels: Literal["teacher", "merged"] = Field(
        default="teacher", description="whose first item L_Rec wants: each domain's own model's"
    )
    temperature: float = Field(default=0.05, gt=0, description="T of L_KD")
    tau_rec: float = Field(default=1.0, gt=0, description="of L_Rec and of the entropy")
    mask_self: bool = Field(
        default=False,
        description="leave a probe's own items out: else L_Rec's label is nearly always the probe",
    )
    probes: ProbeSettings = ProbeSettings()
    refresh: int | None = Field(
        default=None, ge=1, description="steps until item vectors are computed anew; none: never"
    )
    steps: int = Field(default=500, ge=1)
    batch: int = Field(default=16, ge=1, description="probes of all domains in one step")
    learning_rate: float = Field(default=1e-3, gt=0)
    held_out: int = Field(
        default=128, ge=0, description="probes of all domains, a tenth at most, that watch"
    )

    @field_validator("method")
    @classmethod
    def _learnable(cls, value: str | dict[str, Any]) -> str | dict[str, Any]:
        with field_errors():
            method = make_method(value)
        if not getattr(method, "keeps_parts", False):
            hint = " (say {name: ties, weigh: after})" if method.name == "ties" else ""
            raise ValueError(
                f"'{method.name}' does not keep the parts apart, so it has no weights to learn{hint}"
            )
        return value

    @model_validator(mode="after")
    def _terms_fit(self) -> CollaborativeSettings:
        if not (self.recommendation or self.distillation or self.entropy):
            raise ValueError("recommendation, distillation and entropy can't all be 0")
        if self.labels == "merged" and self.probes.length > 1:
            raise ValueError("labels: merged is for probes of one item")
        return self

    def start(self, parts: int) -> list[float]:
        """w of K parts at the start."""
        if self.initial is not None:
            return [self.initial] * parts
        return make_method(self.method).default_weights(parts)

    @property
    def needs_teachers(self) -> bool:
        """Whether any term looks at the rankings of the domains' own models."""
        return bool(self.distillation) or (bool(self.recommendation) and self.labels == "teacher")

    def objective(self) -> Objective:
        """The sum of the terms whose factor is not 0."""
        terms: list[tuple[float, Objective]] = []
        if self.recommendation:
            recommendation = Recommendation(self.tau_rec, first_labels=self.labels == "merged")
            terms.append((self.recommendation, recommendation))
        if self.distillation:
            terms.append((self.distillation, Distillation(self.temperature)))
        if self.entropy:
            terms.append((self.entropy, Entropy(self.tau_rec)))
        return WeightedSum(tuple(terms))
