"""What a WeaveRec recipe may say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from weft.evaluation.protocol import EvaluationSettings
from weft.learning.settings import CollaborativeSettings
from weft.recommenders.contract import RecommenderSettings
from weft.recommenders.kinds import recommender_settings
from weft.settings import field_errors
from weft.systems.recipe import LEARNED, Branches, Merging, RecipeBlock, StudyRecipe, methods_alone

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


class AdaMerging(RecipeBlock):
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


class WeaveBranches(Branches):
    """How each branch of a WeaveRec recipe is trained: on few examples unless it says otherwise."""

    examples: int = Field(default=2000, ge=1, description="drawn from each domain")


class WeaveEvaluation(EvaluationSettings):
    """How a WeaveRec recipe is measured: on some drawn users unless it says otherwise."""

    users: int | None = Field(default=1000, ge=1)


class WeaveRecRecipe(StudyRecipe):
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
        settings = []
        if "examples" not in branches.model_fields_set:
            settings.append(f"branches.examples ({branches.examples:,} of each domain)")
        if "epochs" not in branches.model_fields_set:
            settings.append(f"branches.epochs ({branches.epochs})")
        unset = reading.SHORTENING - reading.model_fields_set
        values = {name: getattr(reading, name) for name in sorted(unset)}
        settings += [f"recommender.{name} ({value})" for name, value in values.items()]
        if "users" not in evaluate.model_fields_set:
            settings.append(f"evaluate.users ({evaluate.users:,} drawn test users, or all)")
        if "controls" not in self.model_fields_set:
            settings.append(f"controls ({', '.join(self.controls)})")
        return settings

    def validated(self) -> list[str]:
        merges = (self.merge, *self.merge.beside)
        chosen = [one.weights for one in merges if one.weights in ("validation", "adamerging")]
        return [*super().validated(), *(f"merge.weights: {one}" for one in chosen)]

    def ranker(self, changes: Mapping[str, Any]) -> RecommenderSettings:
        """The recommender's settings with one of the `rankers`' changes; of a new kind where the
        change names one."""
        values = self.recommender.model_dump(mode="json")
        if changes.get("kind", values["kind"]) != values["kind"]:
            values = {name: values[name] for name in ("text", "prompt") if name in values}
        with field_errors("rankers"):
            ranker = recommender_settings({**values, **changes})
        if self.evaluate.full and not ranker.ranks_catalogues:
            raise ValueError(f"rankers: {dict(changes)} can't rank a catalogue (evaluate.full)")
        return ranker
