"""What an X-Cross recipe may say."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from weft.data.splits import UserSplit
from weft.errors import WeftError
from weft.evaluation.candidates import CandidateSettings
from weft.evaluation.protocol import EvaluationSettings
from weft.integration import IntegratorSettings, integrator_settings
from weft.integration.activations import BUDGET
from weft.integration.head_only import HeadSettings
from weft.integration.kinds import AnyIntegratorSettings
from weft.integration.mixtures import MeteoraSettings, XLoraSettings
from weft.integration.x_cross import XCrossSettings
from weft.recommenders.cross_encoder import CrossEncoderSettings
from weft.recommenders.kinds import RecommenderSettings
from weft.systems.recipe import (
    Branches,
    Merging,
    Study,
    Validation,
    _Block,
    check_validated,
    methods_alone,
)
from weft.training import TrainSettings

Change = dict[str, int | float | None]


class Sources(_Block):
    """Which adapters are integrated: those that do best, untrained on the target, on a hold-out."""

    count: int = Field(default=2, ge=1, description="of the best ones")
    among: tuple[str, ...] | None = Field(
        default=None, description="domains; none: every other one than the target"
    )
    holdout: int = Field(default=300, ge=1, description="validation users of the target")


class Target(TrainSettings):
    """How everything is trained that learns from the target: the published settings, unless said."""

    examples: int = Field(default=1000, ge=1, description="of the target")
    epochs: int = Field(default=40, ge=1)
    batch: int = Field(default=1, ge=1, description="examples, each with its drawn candidates")
    learning_rate: float = Field(default=5e-5, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    lora_learning_rate: float | None = Field(
        default=None, gt=0, description="of a new adapter; none: as the others"
    )
    validation: Validation | None = None
    activations: int = Field(
        default=BUDGET, ge=0, description="bytes on disk for what training never changes; 0: none"
    )


class Limited(_Block):
    """The study of little data: an integrator and a new adapter on drawn subsets of some sizes."""

    examples: tuple[int, ...] = Field(min_length=1)
    subsets: int = Field(default=5, ge=1, description="drawn of each size")
    epochs: int | None = Field(default=None, ge=1, description="none: as elsewhere")
    targets: tuple[str, ...] | None = Field(default=None, description="none: every target")
    users: int | None = Field(default=None, ge=1, description="test users; none: as elsewhere")

    @field_validator("examples")
    @classmethod
    def _sorted(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if min(value) < 1:
            raise ValueError("sizes must be at least 1")
        return tuple(sorted(set(value)))


class XCrossRecipe(Study):
    """An X-Cross study: adapters for every domain, then the best of them integrated for each target.

    Weights of `merges` are in the order of the sources, the best on the hold-out first. `variants` are more rows: changes of `x_cross` by the row's name (an ablation, fewer layers).
    """

    system: Literal["x_cross"] = "x_cross"
    recommender: RecommenderSettings = CrossEncoderSettings()
    sources: Sources = Sources()
    target: Target = Target()
    x_cross: XCrossSettings = XCrossSettings()
    rivals: tuple[IntegratorSettings, ...] = (
        XLoraSettings(),
        XLoraSettings(form="one_pass"),
        MeteoraSettings(),
        HeadSettings(),
    )
    merges: tuple[Merging, ...] = (Merging(),)
    variants: dict[str, Change] = Field(default_factory=dict)
    variants_on: tuple[str, ...] | None = Field(
        default=None, description="targets that get these rows; none: every one"
    )
    limited: Limited | None = None
    evaluate: EvaluationSettings = EvaluationSettings(
        split=UserSplit(),
        candidates=CandidateSettings(by="popularity"),
        full=False,
        at=(1, 3, 10),
    )
    headline: tuple[str, ...] = ("hit@1", "hit@10", "mrr@10")

    _methods_alone = field_validator("merges", mode="before")(methods_alone)

    def variant(self, name: str) -> AnyIntegratorSettings:
        """The settings of a variant's row."""
        try:
            return integrator_settings(self.x_cross.model_dump() | self.variants[name])
        except WeftError as error:
            raise ValueError(f"variants: {name}: {error}") from None

    @model_validator(mode="after")
    def _study_fits(self) -> Self:
        if self.recommender.kind != "cross_encoder":
            raise ValueError(
                "recommender: X-Cross integrates cross-encoders; set kind: cross_encoder"
            )
        names = {spec.name for spec in self.domains}
        targets = {spec.name for spec in self.domains if spec.target}
        for name in self.variants:
            self.variant(name)
        for field, said, known in (
            ("sources.among", self.sources.among, names),
            ("variants_on", self.variants_on, targets),
            ("limited.targets", self.limited.targets if self.limited else None, targets),
        ):
            for one in said or ():
                if one not in known:
                    raise ValueError(f"{field}: '{one}' is not one of {', '.join(sorted(known))}")
        for target in sorted(targets):
            there = len(self.among(target))
            if there < self.sources.count:
                raise ValueError(
                    f"sources.count: {self.sources.count} are integrated for '{target}', and there "
                    f"are adapters of {there} domains to choose from"
                )
        how = self.target
        check_validated("target", how, how.validation)
        if self.branches.parameters != "lora":
            raise ValueError("branches.parameters: X-Cross integrates adapters: say lora")
        if how.gradient_checkpointing:
            raise ValueError("target: integrators are trained without gradient_checkpointing")
        if self.sources.count < 2:
            raise ValueError("sources.count: X-Cross integrates two or more sources")
        self._merges_fit()
        self._evaluation_fits()
        if any(one.kind == "x_cross" for one in self.rivals):
            raise ValueError(
                "rivals: x_cross is no rival of itself; `variants` are more rows of it"
            )
        for spec in self.domains:
            if spec.seeds:
                raise ValueError(f"domain '{spec.name}': seeds are for weaverec recipes")
        return self

    def _merges_fit(self) -> None:
        count = self.sources.count
        for one in self.merges:
            if isinstance(one.weights, str) and one.weights != "uniform":
                raise ValueError(
                    "merges: weights are uniform or numbers: nothing is tuned on the target"
                )
            if isinstance(one.weights, tuple) and (
                len(one.weights) != count or abs(sum(one.weights) - 1) > 1e-9
            ):
                raise ValueError(f"merges: weights must be {count} numbers that sum to 1")
            if one.title not in ("linear", "lego"):
                raise ValueError(
                    f"merges: '{one.title}' works on differences from a base, and pooler and scorer "
                    "have none; linear and lego can be taken"
                )

    def _evaluation_fits(self) -> None:
        evaluate = self.evaluate
        if evaluate.candidates is None or evaluate.full or self.show_users:
            raise ValueError(
                "evaluate: a cross-encoder reads a prompt for each item and user, so studies rank "
                "candidates: set full: false, candidates, and no show_users"
            )
        if 10 not in evaluate.at:
            raise ValueError("evaluate.at: sources are chosen by mrr@10, so 10 must be in it")

    def validated(self) -> list[str]:
        return ["sources.holdout"]

    def among(self, target: str) -> list[str]:
        """The domains whose adapters may be integrated for a target, in the recipe's order."""
        chosen = self.sources.among
        every = [spec.name for spec in self.domains]
        return [n for n in every if (n in chosen if chosen is not None else n != target)]

    def new_adapter(self, examples: int, epochs: int | None = None) -> Branches:
        """How an adapter is trained on the target instead: the same examples and epochs, LoRA as the
        sources'."""
        own = set(TrainSettings.model_fields)
        values = self.target.model_dump(include=own)
        values["epochs"] = epochs or self.target.epochs
        values["learning_rate"] = self.target.lora_learning_rate or self.target.learning_rate
        validation = self.target.validation
        return Branches(examples=examples, lora=self.branches.lora, validation=validation, **values)
