"""MergeRec (arXiv 2601.01753): merging weights learned from catalogues, without any user's data.

    θ(w) = θ_base + Σ_k w_k v_k,   D̂_k = {[i] : i ∈ I_k},   L = L_Rec + λ L_KD,  λ = 1000

Each domain's own model ranks its catalogue for pseudo-users, and w is moved by Adam until the
merged model ranks likewise. What goes in is a planned merge and catalogues; there is no way to pass
an interaction. What comes out are the weights of that merge, in plain numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from weft.artifacts.hashing import hash_json
from weft.backbones.load import dtype_of
from weft.data.domain import Catalogue, IntArray
from weft.errors import DataError, MismatchError
from weft.learning.groups import Groups
from weft.learning.learner import CollaborativeLearner, TeacherView
from weft.learning.optimise import LearnedCoefficients, LearningRun
from weft.learning.part_models import PartModels, Reading
from weft.learning.probes import Probes, make_probes
from weft.learning.settings import CollaborativeSettings
from weft.merging.methods import make_method, method_options
from weft.merging.plan import MergePlan
from weft.merging.recipe import MergeRecipe
from weft.merging.weights import weight_spec
from weft.settings import validate
from weft.training.batches import seed_of


@dataclass(frozen=True)
class CollaborativeWeights:
    """Learned weights, as `weft.merge` takes them, and how their learning went; `recipe` is the
    merge with these weights in it."""

    weights: list[Any]
    recipe: MergeRecipe
    groups: Groups
    learned: LearnedCoefficients
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As JSON, without the recipe; `learned_of` and the entry `notes` are the way back."""
        return {
            "weights": self.weights,
            "groups": list(self.groups.labels),
            "coefficients": self.learned.coefficients,
            "curve": self.learned.curve,
            "kept_step": self.learned.kept_step,
            "stopped": self.learned.stopped,
            "notes": list(self.notes),
        }


def learned_of(values: Mapping[str, Any]) -> LearnedCoefficients:
    """What was learned, out of what `CollaborativeWeights.to_json` gave."""
    return LearnedCoefficients(
        values["coefficients"],
        [(step, loss, held_out) for step, loss, held_out in values["curve"]],
        values["kept_step"],
        values["stopped"],
    )


def learn_collaborative(
    plan: MergePlan,
    catalogues: Sequence[Catalogue],
    settings: CollaborativeSettings | None = None,
    *,
    reading: Reading | None = None,
    seed: int = 0,
    popularity: Sequence[IntArray] | None = None,
    run: LearningRun | None = None,
) -> CollaborativeWeights:
    """Learn the weights that merge K trained parts into one recommender for K domains.

    `plan` is the merge (`plan_merge`), whose own weights are not looked at; part k of it was
    trained on the domain of catalogue k. Parts are checkpoints, folders that have one folder as
    their base, or adapters, whose backbone `reading` names. With what is returned,
    `plan_recipe(learned.recipe).run(out)` does the merge. `settings` must have the plan's method;
    without them MergeRec's defaults hold. `popularity` [items] of each catalogue is only for `probes: {choose: popular}`.
    Nothing else about users can be passed.

    Items without text are left out of the learning. Raises `MismatchError` for parts and catalogues
    that don't fit, `SettingError` for a merge whose weights can't be learned, `DataError` for a
    catalogue with fewer than two items that have text, or a model whose vectors are not finite.
    """
    task = _Task.of(plan, catalogues, settings, reading, seed)
    domains = []
    for k, rows in enumerate(task.rows):
        catalogue = task.with_text(k)
        counts = None if popularity is None else np.asarray(popularity[k])[rows]
        teacher = task.models.teacher(k, catalogue)
        probes = make_probes(
            teacher.item_vectors, task.settings.probes, seed_of(seed, k), popularity=counts
        )
        domains.append(task.models.view(k, teacher, catalogue, probes))
    return task.learn(domains, run)


def learn_from_sequences(
    plan: MergePlan,
    catalogues: Sequence[Catalogue],
    sequences: Sequence[Probes],
    settings: CollaborativeSettings,
    *,
    reading: Reading | None = None,
    seed: int = 0,
    run: LearningRun | None = None,
) -> CollaborativeWeights:
    """As `learn_collaborative`, but from real users' sequences, rows of the catalogues: a control
    of what doing without them costs."""
    task = _Task.of(plan, catalogues, settings, reading, seed)
    domains = []
    for k, rows in enumerate(task.rows):
        catalogue = task.with_text(k)
        probes = _among(sequences[k], rows, len(catalogues[k]))
        teacher = task.models.teacher(k, catalogue)
        domains.append(task.models.view(k, teacher, catalogue, probes))
    return task.learn(domains, run)


@dataclass(frozen=True)
class _Task:
    """What is to be learned: checked, and with the rows of the items that have text."""

    models: PartModels
    catalogues: Sequence[Catalogue]
    rows: Sequence[IntArray]
    settings: CollaborativeSettings
    seed: int

    @classmethod
    def of(
        cls,
        plan: MergePlan,
        catalogues: Sequence[Catalogue],
        settings: CollaborativeSettings | None,
        reading: Reading | None,
        seed: int,
    ) -> _Task:
        settings = settings or validate(
            CollaborativeSettings, {"method": method_options(plan.method)}
        )
        if make_method(settings.method) != plan.method:
            raise MismatchError(
                f"the merge is planned by {plan.method.name} and the settings learn weights for "
                f"{make_method(settings.method).name}: the method and its options must be the same"
            )
        reading = reading or Reading()
        models = PartModels(plan, reading)
        count = len(models.labels)
        if len(catalogues) != count:
            raise MismatchError(
                f"{count} parts need {count} catalogues, one each in the same order, "
                f"not {len(catalogues)}"
            )
        rows = [reading.items_with_text(catalogue) for catalogue in catalogues]
        for name, with_text in zip(models.labels, rows, strict=True):
            if len(with_text) < 2:
                raise DataError(
                    f"the catalogue of '{name}' has {len(with_text)} "
                    f"item{'s' * (len(with_text) != 1)} with text, and ranking takes two"
                )
        return cls(models, catalogues, rows, settings, seed)

    def with_text(self, k: int) -> Catalogue:
        """Catalogue k without the items that have no text."""
        catalogue, rows = self.catalogues[k], self.rows[k]
        return catalogue if len(rows) == len(catalogue) else Catalogue(catalogue.frame[rows])

    def learn(
        self, domains: Sequence[TeacherView], run: LearningRun | None
    ) -> CollaborativeWeights:
        models, settings = self.models, self.settings
        with models.student(settings.weights) as student:
            reader, groups = student.recommender, student.groups
            learner = CollaborativeLearner(student, domains, settings, self.seed)
            contents = [[one.probes.hash, reader.tokens(one.catalogue).hash] for one in domains]
            precision = str(dtype_of(models.reading.precision))
            weights = [models.key, reader.backbone.fingerprint, precision]
            key = hash_json([weights, settings.model_dump(mode="json"), self.seed, contents])
            learned = learner.learn(key, run)
        stopped = (learned.stopped,) if learned.stopped else ()
        weights = groups.specs(learned.coefficients)
        recipe = _with_weights(models.plan.recipe, weights)
        notes = (*self._left_out(), *stopped)
        return CollaborativeWeights(weights, recipe, groups, learned, notes)

    def _left_out(self) -> list[str]:
        """Sentences on items without text."""
        named = zip(self.models.labels, self.catalogues, self.rows, strict=True)
        return [
            f"{len(catalogue) - len(rows)} items of '{name}' have no text: left out"
            for name, catalogue, rows in named
            if len(rows) < len(catalogue)
        ]


def _with_weights(recipe: MergeRecipe, weights: Sequence[Any]) -> MergeRecipe:
    parts = tuple(
        part.model_copy(update={"weight": weight_spec(weight)})
        for part, weight in zip(recipe.parts, weights, strict=True)
    )
    return recipe.model_copy(update={"parts": parts})


def _among(probes: Probes, rows: IntArray, count: int) -> Probes:
    """The probes by their places among some rows of `count` items; those left with no item go."""
    place = np.full(count, -1, dtype=np.int64)
    place[rows] = np.arange(len(rows))
    histories = [place[history] for history in probes.histories]
    return Probes(tuple(one[one >= 0] for one in histories if (one >= 0).any()))
