"""What a MergeRec recipe may say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, Self

from pydantic import Field, FiniteFloat, field_validator, model_validator

from weft.evaluation.protocol import EvaluationSettings
from weft.learning.probes import Choice
from weft.learning.settings import CollaborativeSettings
from weft.merging.methods import make_method
from weft.recommenders.kinds import RecommenderBlock
from weft.recommenders.text.bi_encoder import BiEncoderSettings
from weft.settings import field_errors, validate
from weft.systems.baselines import BASELINES
from weft.systems.recipe import (
    Branches,
    MethodSpec,
    RecipeBlock,
    StudyRecipe,
    check_validated,
    methods_alone,
)
from weft.text import TextSettings

FEATURED, BASELINE = "mergerec", "best uniform merge"  # rows that every study has
DOMAIN_MODEL, JOINT = "fine-tuned", "joint"
FEW = "Few probes"  # the title of the table of `scarce`
SEQUENCES = "sequences"  # in a variant: real training sequences take the place of the probes


class Uniform(RecipeBlock):
    """A merge with one weight for all parts: of several, the one that is best over validation
    users, mean over the domains."""

    method: MethodSpec
    weights: tuple[FiniteFloat, ...] = Field(
        default=(), description="to choose from; the method's own unless given"
    )
    title: str = Field(default="", description="the row's name; the method's unless given")

    @property
    def row(self) -> str:
        return self.title or make_method(self.method).name.replace("_", " ")


class Scarce(RecipeBlock):
    """The study of few probes: some sizes, each chosen in some ways."""

    per_domain: tuple[int, ...] = Field(min_length=1)
    choose: tuple[Choice, ...] = ("random", "centroid", "popular")


class Joint(RecipeBlock):
    """How the one model of all domains' users is trained, where otherwise than a domain's own."""

    examples: int | None = Field(default=None, ge=1, description="of each domain")
    epochs: int | None = Field(default=None, ge=1)
    validate_every: int | None = Field(default=None, ge=1, description="steps")


@dataclass(frozen=True)
class Variant:
    """A way of learning weights; with `real_sequences` users' training sequences take the place of
    the probes: a control."""

    settings: CollaborativeSettings
    real_sequences: bool = False


class MergeRecRecipe(StudyRecipe):
    """A MergeRec study: a model for every domain, and all of them merged into one.

    `variants` are more rows, `studies` more tables of them: changes of `collaborative` by the
    row's name. `sequences: true` among the changes gives real training sequences for probes,
    which the system itself never sees: a control.
    """

    system: Literal["mergerec"] = "mergerec"
    recommender: RecommenderBlock = BiEncoderSettings(
        text=TextSettings(fields=["title", "brand?"], field_tokens=32, tokens=64),
        history_items=50,
        history_tokens=512,
    )
    branches: Branches = Branches(
        parameters="all", epochs=100, batch=256, learning_rate=5e-5, weight_decay=0.0
    )
    joint: Joint | None = Joint()
    uniform: tuple[Uniform, ...] = (
        Uniform(method="linear", title="weight average"),
        Uniform(method="task_arithmetic", weights=(0.1, 0.2, 0.3, 0.4, 0.5)),
        Uniform(
            method={"name": "ties", "density": 0.2, "weigh": "after"}, weights=(0.5, 1.0, 1.5, 2.0)
        ),
    )
    choose_users: int = Field(
        default=200, ge=1, description="validation users of each domain that choose weights"
    )
    collaborative: CollaborativeSettings = CollaborativeSettings()
    variants: dict[str, dict[str, Any]] = Field(default_factory=dict)
    studies: dict[str, dict[str, dict[str, Any]]] = Field(default_factory=dict)
    scarce: Scarce | None = None
    unseen: bool = Field(
        default=False, description="merge all domains but one, test that one; each in turn"
    )
    seeds: tuple[int, ...] = Field(
        default=(), description="the learning once more with each of these, to see its spread"
    )
    evaluate: EvaluationSettings = EvaluationSettings(
        candidates=None, full=True, at=(1, 5, 10, 50), mask_history="both"
    )
    headline: tuple[str, ...] = ("full/recall@10", "full/ndcg@10")

    _methods_alone = field_validator("uniform", mode="before")(methods_alone)

    def variant(self, changes: Mapping[str, Any] = MappingProxyType({})) -> Variant:
        """`collaborative` with a variant's changes; `probes` changes within its block."""
        values = self.collaborative.model_dump(mode="json")
        changed = {name: value for name, value in changes.items() if name != SEQUENCES}
        if isinstance(changed.get("probes"), dict):
            changed["probes"] = values["probes"] | changed["probes"]
        settings = validate(CollaborativeSettings, values | changed)
        return Variant(settings, bool(changes.get(SEQUENCES, False)))

    @model_validator(mode="after")
    def _study_fits(self) -> Self:
        if self.recommender.kind != "bi_encoder":
            raise ValueError("recommender: MergeRec merges bi-encoders; set kind: bi_encoder")
        if self.branches.parameters != "all":
            raise ValueError(
                "branches.parameters: a mergerec recipe trains all; the weights of adapters are "
                "learned in a weaverec recipe (merge: {weights: collaborative})"
            )
        if 10 not in self.evaluate.at or not self.evaluate.full:
            raise ValueError("evaluate: a mergerec recipe reports @10 of the whole catalogue")
        if not self.uniform:
            raise ValueError("uniform: at least one merge is needed to compare with")
        for spec in self.domains:
            if spec.seeds:
                raise ValueError(f"domain '{spec.name}': seeds are for weaverec recipes")
            if not spec.target:
                raise ValueError(f"domain '{spec.name}': every domain of this system is a target")
        if self.unseen and len(self.domains) < 3:
            raise ValueError("unseen: needs three domains or more")
        studies = {f"studies: {title}": rows for title, rows in self.studies.items()}
        for where, rows in {"variants": self.variants, **studies}.items():
            for name, changes in rows.items():
                with field_errors(f"{where}: {name}"):
                    self.variant(changes)
        check_validated("joint", self.joint_branches(), self.branches.validation)
        self._rows_differ()
        self._tables_differ()
        return self

    def _rows_differ(self) -> None:
        names = [*(one.row for one in self.uniform), *self.variants]
        names += [FEATURED, BASELINE, DOMAIN_MODEL, JOINT]
        names += [one.row for one in BASELINES.values()]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two rows would be called '{name}': give one a title")

    def _tables_differ(self) -> None:
        if len({self.seed, *self.seeds}) < len(self.seeds) + 1:
            raise ValueError("seeds must differ, also from seed")
        if self.scarce is None:
            return
        if FEW in self.studies:
            raise ValueError(f"studies: '{FEW}' is the table of `scarce`: give yours another title")
        for field, values in (
            ("per_domain", self.scarce.per_domain),
            ("choose", self.scarce.choose),
        ):
            if len(set(values)) < len(values):
                raise ValueError(f"scarce.{field}: two are the same")
        for size in self.scarce.per_domain:
            self.variant({"probes": {"per_domain": size}})

    def validated(self) -> list[str]:
        return [*super().validated(), "choose_users"]

    def joint_branches(self) -> Branches:
        """How the model of all domains' users is trained."""
        joint = self.joint or Joint()
        changes = {k: v for k, v in joint.model_dump().items() if v is not None}
        return self.branches.model_copy(update=changes)
