"""What the recipes of every system may say. Unknown keys are errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    SerializeAsAny,
    field_validator,
    model_validator,
)

from weft.adapters import LoraSettings
from weft.backbones import Precision
from weft.data.filters import Filters
from weft.data.mall import CATEGORIES as MALL
from weft.data.splits import UserSplit
from weft.evaluation.metrics import parse_metric
from weft.evaluation.protocol import EvaluationSettings
from weft.merging import Space
from weft.merging.methods import make_method, method_options
from weft.names import FolderName
from weft.recommenders.contract import RecommenderSettings
from weft.recommenders.kinds import RecommenderBlock, recommender_class, recommender_settings
from weft.recommenders.text.bi_encoder import BiEncoderSettings
from weft.settings import StrictModel, field_errors
from weft.training import TrainSettings

LEARNED = {"adamerging": "listwise", "collaborative": "bi_encoder"}
"""Ways to learn a merge's weights -> the kind of recommender that they need."""


def _known_method(value: str | dict[str, Any]) -> str | dict[str, Any]:
    with field_errors():
        make_method(value)
    return value


MethodSpec = Annotated[str | dict[str, Any], AfterValidator(_known_method)]
"""A merging method's name, or a block with its options."""


def methods_alone(value: Any) -> Any:
    """A list of merges in which one may be only its method's name."""
    if not isinstance(value, list | tuple):
        return value
    return [{"method": one} if isinstance(one, str) else one for one in value]


class RecipeBlock(StrictModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def settings_without_backbone(value: Any) -> Any:
    """The settings of a `recommender:` block of a baseline."""
    if not isinstance(value, Mapping):
        return value
    with field_errors():
        return recommender_settings(value)


class DomainSpec(RecipeBlock):
    """One domain: a folder under the data folder, or one of the generated mall's."""

    name: FolderName
    path: str | None = Field(default=None, description="under --data; the name unless given")
    filters: Filters = Filters()
    seeds: tuple[int, ...] = Field(
        default=(), description="as a target, more runs with these seeds, to see their spread"
    )
    target: bool = Field(default=True, description="is a target in turn, not only a source")


class Mall(RecipeBlock):
    """The generated mall instead of real data; see weft.data.mall."""

    seed: int = 0
    users: int = Field(default=1500, ge=4)
    items: int = Field(default=500, ge=30, le=5000)


class Validation(RecipeBlock):
    """Validation for learning curves and early stopping: NDCG@10 of drawn users."""

    users: int = Field(default=200, ge=1)


def loop_settings(settings: TrainSettings, epochs: int) -> TrainSettings:
    """The training loop's settings alone, out of a block that has more; with so many epochs."""
    values = {name: getattr(settings, name) for name in TrainSettings.model_fields}
    return TrainSettings(**values | {"epochs": epochs})


class Branches(TrainSettings):
    """How each branch is trained."""

    examples: int = Field(default=20000, ge=1, description="drawn from each domain")
    parameters: Literal["lora", "all"] = Field(
        default="lora", description="what is trained: an adapter, or the whole backbone"
    )
    lora: LoraSettings = LoraSettings()
    validation: Validation | None = None

    def loop(self, *, longer: int = 1) -> TrainSettings:
        """The training loop's settings, with so many times the epochs."""
        return loop_settings(self, self.epochs * longer)


class Merging(RecipeBlock):
    """One way in which branches become one: `weft methods` lists them all.

    `uniform` weights are 1/K; `validation` chooses λ on held-out validation users; `adamerging`
    learns weights for each module from unlabelled prompts, `collaborative` from catalogues alone;
    numbers are the target's own branch first, then one for each source in the recipe's order.
    """

    method: MethodSpec = "linear"
    space: Space = "delta"
    weights: (
        Literal["uniform", "validation", "adamerging", "collaborative"] | tuple[FiniteFloat, ...]
    ) = "uniform"
    rank: int | None = Field(default=None, ge=1, description="of the merge; none: as it comes out")

    @property
    def title(self) -> str:
        """Short, for a row of a table: `dare + ties`."""
        names, method = [], self.method
        while isinstance(method, dict):
            names.append(str(method["name"]))
            method = method.get("then", "")
        if method == "linear" and self.weights in LEARNED:
            return str(self.weights)
        return " + ".join([*names, *([method] if method else [])])

    @property
    def plain_method(self) -> str | dict[str, Any]:
        """The method with all of its options, so that what means the same is the same; `linear`
        where it is that with nothing set."""
        method = make_method(self.method)
        return "linear" if method == make_method("linear") else method_options(method)

    @model_validator(mode="after")
    def _learnable(self) -> Merging:
        if self.weights in LEARNED and (self.method, self.space) != ("linear", "delta"):
            raise ValueError(
                f"weights: {self.weights} is learned for the linear method in delta space"
            )
        return self


def check_validated(field: str, settings: TrainSettings, validation: Validation | None) -> None:
    """A `ValueError` where training asks for validations that nobody measures."""
    if validation is None and (settings.patience or settings.keep == "best"):
        raise ValueError(f"{field}: patience and keep: best need {field}.validation")
    if validation is None and settings.validate_every:
        raise ValueError(f"{field}: validate_every needs {field}.validation")


class BaselineBlock(RecipeBlock):
    """A baseline of a kind that needs no backbone, with other settings than its defaults."""

    recommender: Annotated[
        SerializeAsAny[RecommenderSettings], BeforeValidator(settings_without_backbone)
    ]
    train: TrainSettings = TrainSettings()
    title: str = Field(default="", description="the row's name; the kind's unless given")


class StudyRecipe(RecipeBlock):
    """What the recipes of every system say."""

    name: str = ""
    system: str
    backbone: str = Field(default="minilm", min_length=1)
    precision: Precision = "auto"
    recommender: RecommenderBlock = BiEncoderSettings()
    domains: tuple[DomainSpec, ...] = Field(min_length=2)
    baselines: tuple[str | BaselineBlock, ...] = Field(
        default=("popularity", "zero_shot"), description="rows that need none of the branches"
    )
    mall: Mall | None = None
    branches: Branches = Branches()
    evaluate: EvaluationSettings = EvaluationSettings()
    headline: tuple[str, ...] = Field(default=("ndcg@1", "ndcg@5", "full/recall@10"), min_length=1)
    show_users: int = Field(default=0, ge=0, description="users whose suggestions are shown")
    seed: int = 0
    notes: tuple[str, ...] = ()

    @field_validator("domains", mode="before")
    @classmethod
    def _names_alone(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        return [{"name": one} if isinstance(one, str) else one for one in value]

    @field_validator("headline")
    @classmethod
    def _metrics(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            with field_errors():
                parse_metric(name)
            if value.count(name) > 1:
                raise ValueError(f"'{name}' is there twice")
        return value

    @field_validator("baselines")
    @classmethod
    def _known_baselines(
        cls, value: tuple[str | BaselineBlock, ...]
    ) -> tuple[str | BaselineBlock, ...]:
        from weft.systems.baselines import check_baseline  # which plans with recipes

        for one in value:
            with field_errors():
                check_baseline(one)
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """What would otherwise come out only after hours of training."""
        evaluate, branches = self.evaluate, self.branches
        if self.recommender.kind == "bi_encoder" and branches.batch < 2:
            raise ValueError("branches.batch: a bi-encoder needs 2, to be each other's negatives")
        if evaluate.candidates is None and not evaluate.full:
            raise ValueError("evaluate: nothing to rank; set candidates or full")
        if not self.recommender.ranks_catalogues and (evaluate.full or self.show_users):
            raise ValueError(
                "this recommender ranks given candidates only: set evaluate.full: false, and no "
                "show_users"
            )
        for name in self.headline:
            whole, _, k = parse_metric(name)
            if k not in evaluate.at:
                raise ValueError(f"headline: '{name}' needs {k} in evaluate.at")
            if whole and not evaluate.full:
                raise ValueError(f"headline: '{name}' needs evaluate.full")
            if not whole and evaluate.candidates is None:
                raise ValueError(f"headline: '{name}' needs evaluate.candidates")
        if "zero_shot" in self.baselines and recommender_class(self.recommender.kind).files:
            raise ValueError(
                f"baselines: a {self.recommender.kind} recommender can't score untrained: name the "
                "baselines without zero_shot"
            )
        check_validated("branches", branches, branches.validation)
        self._domains_fit()
        self._split_fits()
        return self

    def _split_fits(self) -> None:
        """A split of users needs users to measure, and to choose by where something is chosen."""
        split = self.evaluate.split
        if not isinstance(split, UserSplit):
            return
        if not split.ratios[2]:
            raise ValueError("evaluate.split: ratios leave no test users")
        wanted = self.validated()
        if wanted and not split.ratios[1]:
            raise ValueError(f"evaluate.split: ratios leave no validation users, for {wanted[0]}")

    def validated(self) -> list[str]:
        """The fields that ask for validation users."""
        return ["branches.validation"] if self.branches.validation else []

    def _domains_fit(self) -> None:
        for spec in self.domains:
            if self.mall is not None and spec.name not in MALL:
                raise ValueError(
                    f"domains: the mall has no domain '{spec.name}'; it has {', '.join(MALL)}"
                )
            if spec.seeds and not spec.target:
                raise ValueError(f"domain '{spec.name}': seeds are for targets")
            if len({self.seed, *spec.seeds}) < len(spec.seeds) + 1:
                raise ValueError(f"domain '{spec.name}': seeds must differ, also from seed")

    @field_validator("domains")
    @classmethod
    def _distinct(cls, value: tuple[DomainSpec, ...]) -> tuple[DomainSpec, ...]:
        names = [one.name for one in value]
        if len(set(names)) < len(names):
            raise ValueError("every domain needs a name of its own")
        if not any(one.target for one in value):
            raise ValueError("at least one domain must be a target")
        return value
