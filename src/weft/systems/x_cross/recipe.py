"""The recipe of an X-Cross study: its fields, their defaults, and what can't go together."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from weft.data.splits import UserSplit
from weft.evaluation.candidates import CandidateSettings
from weft.evaluation.protocol import EvaluationSettings
from weft.integration import IntegratorSettings, IntegratorSpec, integrator_settings
from weft.integration.activations import BUDGET
from weft.integration.head_only import HeadSettings
from weft.integration.mixtures import MeteoraSettings, XLoraSettings
from weft.integration.x_cross import XCrossSettings
from weft.recommenders.kinds import RecommenderBlock
from weft.recommenders.text.cross_encoder import CrossEncoderSettings
from weft.settings import field_errors
from weft.systems.recipe import (
    BaselineBlock,
    Branches,
    Merging,
    RecipeBlock,
    StudyRecipe,
    Validation,
    check_validated,
    loop_settings,
    methods_alone,
)
from weft.training import TrainSettings

Change = dict[str, int | float | None]

FEATURED, BASELINE, BEST = "x-cross", "lora", "best source"
"""Rows of every target's table: X-Cross, a new adapter, the best source as it is."""


class SourceSettings(RecipeBlock):
    """Which adapters are integrated: the best ones on the target's hold-out, zero-shot."""

    count: int = Field(default=2, ge=1, description="of the best ones")
    among: tuple[str, ...] | None = Field(
        default=None, description="domains; none: every other one than the target"
    )
    holdout: int = Field(default=300, ge=1, description="validation users of the target")


class TargetSettings(TrainSettings):
    """How everything is trained that learns from the target; the defaults are the published
    settings."""

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

    def loop(self, epochs: int) -> TrainSettings:
        """The training loop's settings, with so many epochs."""
        return loop_settings(self, epochs)


class LittleDataSettings(RecipeBlock):
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


class XCrossRecipe(StudyRecipe):
    """An X-Cross study: adapters for every domain, then the best of them integrated for each target.

    Weights of `merges` are in the order of the sources, the best on the hold-out first. `variants`
    are more rows: changes of `x_cross` by the row's name (an ablation, fewer layers).
    """

    system: Literal["x_cross"] = "x_cross"
    recommender: RecommenderBlock = CrossEncoderSettings()
    baselines: tuple[str | BaselineBlock, ...] = ("popularity",)
    sources: SourceSettings = SourceSettings()
    target: TargetSettings = TargetSettings()
    x_cross: XCrossSettings = XCrossSettings()
    rivals: tuple[IntegratorSpec, ...] = (
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
    limited: LittleDataSettings | None = None
    evaluate: EvaluationSettings = EvaluationSettings(
        split=UserSplit(),
        candidates=CandidateSettings(by="popularity"),
        full=False,
        at=(1, 3, 10),
    )
    headline: tuple[str, ...] = ("hit@1", "hit@10", "mrr@10")

    _methods_alone = field_validator("merges", mode="before")(methods_alone)

    def variant(self, name: str) -> IntegratorSettings:
        """The settings of a variant's row."""
        with field_errors(f"variants: {name}"):
            return integrator_settings(self.x_cross.model_dump() | self.variants[name])

    @model_validator(mode="after")
    def _study_fits(self) -> Self:
        if self.recommender.kind != "cross_encoder":
            raise ValueError(
                "recommender: X-Cross integrates cross-encoders; set kind: cross_encoder"
            )
        if self.branches.parameters != "lora":
            raise ValueError("branches.parameters: X-Cross integrates adapters: say lora")
        for spec in self.domains:
            if spec.seeds:
                raise ValueError(f"domain '{spec.name}': seeds are for weaverec recipes")
        self._names_fit()
        self._sources_fit()
        check_validated("target", self.target, self.target.validation)
        if self.target.gradient_checkpointing:
            raise ValueError("target: integrators are trained without gradient_checkpointing")
        self._rows_fit()
        self._merges_fit()
        self._evaluation_fits()
        return self

    def _names_fit(self) -> None:
        """Every domain that a field names is one of the recipe's."""
        names = {spec.name for spec in self.domains}
        targets = set(self.targets)
        for field, listed, known in (
            ("sources.among", self.sources.among, names),
            ("variants_on", self.variants_on, targets),
            ("limited.targets", self.limited.targets if self.limited else None, targets),
        ):
            for name in listed or ():
                if name not in known:
                    raise ValueError(f"{field}: '{name}' is not one of {', '.join(sorted(known))}")

    def _sources_fit(self) -> None:
        count = self.sources.count
        for target in sorted(self.targets):
            there = len(self.among(target))
            if there < count:
                raise ValueError(
                    f"sources.count: {count} are integrated for '{target}', and there are adapters "
                    f"of {there} domains to choose from"
                )
        if count < 2:
            raise ValueError("sources.count: X-Cross integrates two or more sources")

    def _rows_fit(self) -> None:
        for name in self.variants:
            self.variant(name)
        if any(one.kind == "x_cross" for one in self.rivals):
            raise ValueError(
                "rivals: x_cross is no rival of itself; `variants` are more rows of it"
            )

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

    @property
    def targets(self) -> list[str]:
        """The names of the domains that are targets, in the recipe's order."""
        return [spec.name for spec in self.domains if spec.target]

    def among(self, target: str) -> list[str]:
        """The domains whose adapters may be integrated for a target, in the recipe's order."""
        chosen = self.sources.among
        every = [spec.name for spec in self.domains]
        return [n for n in every if (n in chosen if chosen is not None else n != target)]

    def new_adapter(self, examples: int, epochs: int) -> Branches:
        """The settings of a new adapter on the target: the integrator's examples and epochs, the
        sources' LoRA."""
        target = self.target
        return Branches(
            **target.loop(epochs).model_dump()
            | {"learning_rate": target.lora_learning_rate or target.learning_rate},
            examples=examples,
            lora=self.branches.lora,
            validation=target.validation,
        )
