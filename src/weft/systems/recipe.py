"""What a recipe may say. Unknown keys are errors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    field_validator,
    model_validator,
)

from weft.adapters import LoraSettings
from weft.artifacts.yaml_documents import read_mapping
from weft.backbones import Precision
from weft.data.filters import Filters
from weft.data.mall import CATEGORIES as MALL
from weft.data.source import checked
from weft.data.splits import UserSplit
from weft.errors import WeftError
from weft.evaluation.metrics import parse_metric
from weft.evaluation.protocol import EvaluationSettings
from weft.learning.collaborative import CollaborativeSettings
from weft.merging import Space
from weft.merging.methods import make_method
from weft.recommenders.bi_encoder import BiEncoderSettings
from weft.recommenders.kinds import AnySettings, RecommenderSettings, recommender_settings
from weft.settings import StrictModel
from weft.training import TrainSettings

Control = Literal[
    "matched",
    "sources",
    "naive",
    "all_data",
    "soup",
    "soup_longer",
    "factors",
    "hybrids",
    "pairs",
]


LEARNED = {"adamerging": "listwise", "collaborative": "bi_encoder"}
"""Ways to learn a merge's weights -> the kind of recommender that they need."""


def _known_method(value: str | dict[str, Any]) -> str | dict[str, Any]:
    try:
        make_method(value)
    except WeftError as error:
        raise ValueError(str(error)) from None
    return value


MethodSpec = Annotated[str | dict[str, Any], AfterValidator(_known_method)]
"""A merging method's name, or a block with its options."""


def methods_alone(value: Any) -> Any:
    """A list of merges in which one may be only its method's name."""
    if not isinstance(value, list | tuple):
        return value
    return [{"method": one} if isinstance(one, str) else one for one in value]


class _Block(StrictModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DomainSpec(_Block):
    """One domain: a folder under the data folder, or one of the generated mall's."""

    name: str = Field(pattern=r"^\w[\w.-]*$", description="letters, digits, '_', '.', '-'")
    path: str | None = Field(default=None, description="under --data; the name unless given")
    filters: Filters = Filters()
    seeds: tuple[int, ...] = Field(
        default=(), description="as a target, more runs with these seeds, to see their spread"
    )
    target: bool = Field(default=True, description="is a target in turn, not only a source")


class Mall(_Block):
    """The generated mall instead of real data; see weft.data.mall."""

    seed: int = 0
    users: int = Field(default=1500, ge=4)
    items: int = Field(default=500, ge=30, le=5000)


class Validation(_Block):
    """Validation for learning curves and early stopping: NDCG@10 of drawn users."""

    users: int = Field(default=200, ge=1)


class Branches(TrainSettings):
    """How each branch is trained."""

    examples: int = Field(default=20000, ge=1, description="drawn from each domain")
    parameters: Literal["lora", "all"] = Field(
        default="lora", description="what is trained: an adapter, or the whole backbone"
    )
    lora: LoraSettings = LoraSettings()
    validation: Validation | None = None

    def loop(self, *, longer: int = 1) -> dict[str, Any]:
        """The training loop's settings that decide the outcome, with so many times the epochs."""
        own = set(TrainSettings.model_fields) - self.ASIDE
        return self.model_dump(include=own, mode="json") | {"epochs": self.epochs * longer}

    def aside(self) -> dict[str, Any]:
        """The training loop's settings that change nothing but what is written on the way."""
        return self.model_dump(include=set(self.ASIDE), mode="json")


class Merging(_Block):
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

    @model_validator(mode="after")
    def _learnable(self) -> Merging:
        if self.weights in LEARNED and (self.method, self.space) != ("linear", "delta"):
            raise ValueError(
                f"weights: {self.weights} is learned for the linear method in delta space"
            )
        return self


class AdaMerging(_Block):
    """How weights are learned from prompts without labels."""

    prompts: int = Field(default=50, ge=1, description="of each domain that is merged")
    batch: int = Field(default=8, ge=1, description="prompts in one step")
    steps: int = Field(default=500, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)


class MergeSpec(Merging):
    """The merge that the study is about, and others `beside` it: rows of the same branches."""

    validation_users: int = Field(default=1000, ge=1)
    adamerging: AdaMerging = AdaMerging()
    collaborative: CollaborativeSettings = CollaborativeSettings()
    beside: tuple[Merging, ...] = ()

    _names_alone = field_validator("beside", mode="before")(methods_alone)


def check_validated(field: str, settings: TrainSettings, validation: Validation | None) -> None:
    """A `ValueError` where training asks for validations that nobody measures."""
    if validation is None and (settings.patience or settings.keep == "best"):
        raise ValueError(f"{field}: patience and keep: best need {field}.validation")
    if validation is None and settings.validate_every:
        raise ValueError(f"{field}: validate_every needs {field}.validation")


class Study(_Block):
    """What the recipes of every system say."""

    name: str = ""
    system: str
    backbone: str = "minilm"
    precision: Precision = "auto"
    recommender: RecommenderSettings = BiEncoderSettings()
    domains: tuple[DomainSpec, ...] = Field(min_length=2)
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
            try:
                parse_metric(name)
            except WeftError as error:
                raise ValueError(str(error)) from None
            if value.count(name) > 1:
                raise ValueError(f"'{name}' is there twice")
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


class WeaveBranches(Branches):
    """How each branch of a WeaveRec recipe is trained: on few examples unless it says otherwise."""

    examples: int = Field(default=2000, ge=1, description="drawn from each domain")


class WeaveEvaluation(EvaluationSettings):
    """How a WeaveRec recipe is measured: on some drawn users unless it says otherwise."""

    users: int | None = Field(default=1000, ge=1)


class Recipe(Study):
    """A WeaveRec study, short enough to read aloud.

    Its defaults are small: two domains take a quarter of an hour on two cores without bfloat16.
    """

    system: Literal["weaverec"] = "weaverec"
    branches: WeaveBranches = WeaveBranches()
    evaluate: WeaveEvaluation = WeaveEvaluation()
    merge: MergeSpec = MergeSpec()
    controls: tuple[Control, ...] = ("matched",)
    rankers: tuple[dict[str, Any], ...] = Field(
        default=(), description="changes of `recommender` that score the same weights in more rows"
    )

    @model_validator(mode="after")
    def _rows_fit(self) -> Self:
        for changes in self.rankers:
            if not changes:
                raise ValueError("rankers: each names what it changes of `recommender`")
            self.ranker(changes)
        if self.branches.parameters == "all" and self.recommender.kind != "bi_encoder":
            raise ValueError(
                "branches.parameters: all parameters can be trained of a bi_encoder, not of a "
                f"{self.recommender.kind}: say lora"
            )
        if self.branches.parameters == "all" and "factors" in self.controls:
            raise ValueError(
                "controls: factors merges the factors of adapters, and branches.parameters: all "
                "makes none: leave it out of controls"
            )
        for one in (self.merge, *self.merge.beside):
            needed = LEARNED.get(one.weights) if isinstance(one.weights, str) else None
            if needed is not None and self.recommender.kind != needed:
                raise ValueError(f"merge: weights: {one.weights} needs a {needed} recommender")
        if self.merge.collaborative.method != "task_arithmetic":
            raise ValueError("merge.collaborative.method: adapters are summed: task_arithmetic")
        return self

    def small_defaults(self) -> list[str]:
        """What the recipe leaves to the defaults that keep a study short, in words."""
        branches, reading, evaluate = self.branches, self.recommender, self.evaluate
        found = []
        if "examples" not in branches.model_fields_set:
            found.append(f"branches.examples ({branches.examples:,} of each domain)")
        if "epochs" not in branches.model_fields_set:
            found.append(f"branches.epochs ({branches.epochs})")
        if isinstance(reading, BiEncoderSettings):
            unset = {"history_items", "history_tokens"} - reading.model_fields_set
            values = {name: getattr(reading, name) for name in sorted(unset)}
            found += [f"recommender.{name} ({value})" for name, value in values.items()]
        if "users" not in evaluate.model_fields_set:
            found.append(f"evaluate.users ({evaluate.users:,} drawn test users, or all)")
        if "controls" not in self.model_fields_set:
            found.append(f"controls ({', '.join(self.controls)})")
        return found

    def validated(self) -> list[str]:
        merges = (self.merge, *self.merge.beside)
        chosen = [one.weights for one in merges if one.weights in ("validation", "adamerging")]
        return [*super().validated(), *(f"merge.weights: {one}" for one in chosen)]

    def ranker(self, changes: Mapping[str, Any]) -> AnySettings:
        """The recommender's settings with one of the `rankers`' changes; of a new kind where the
        change names one."""
        own = self.recommender.model_dump(mode="json")
        if changes.get("kind", own["kind"]) != own["kind"]:
            own = {name: own[name] for name in ("text", "prompt") if name in own}
        try:
            made = recommender_settings({**own, **changes})
        except WeftError as error:
            raise ValueError(f"rankers: {error}") from None
        if self.evaluate.full and not made.ranks_catalogues:
            raise ValueError(f"rankers: {dict(changes)} can't rank a catalogue (evaluate.full)")
        return made


S = TypeVar("S", bound=BaseModel)


def read_settings(path: Path, model: type[S]) -> S:
    """The settings of a YAML file, its name being the file's unless it says one; what is wrong is
    one sentence that names file and field."""
    values = {"name": Path(path).stem} | read_mapping(path)
    try:
        return checked(model, values)
    except WeftError as error:
        raise WeftError(f"{path}: {error}") from None
