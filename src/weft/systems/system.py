"""What a published system is to the one runner of recipes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from weft.report.model import Branch, ReportTable
from weft.stages.stage import Stage
from weft.systems.plan import Plan
from weft.systems.recipe import StudyRecipe
from weft.systems.rows import Cost, StudyRow
from weft.systems.stages.training import TrainingStage
from weft.systems.stages.weights import WeightsStage

Contrasts = tuple[tuple[str, str, str], ...]
"""(row, against, what the difference tells)."""

R = TypeVar("R", bound=StudyRecipe)


@dataclass(frozen=True)
class System(ABC, Generic[R]):
    """A published system over one plan: its rows, and the tables and words beside them.

    Its package has the same few files as the others': `recipe.py` (what a recipe may say),
    `algorithm.py` (this class: the stages, as in the paper), `stages.py` (stages that no other
    system has), `tables.py` (rows, tables and words of the report).
    """

    title: ClassVar[str]
    recipe_class: ClassVar[type[StudyRecipe]]
    baseline: ClassVar[str]
    """The row that every other is compared with."""
    featured: ClassVar[str]
    """The row that the system is about."""
    contrasts: ClassVar[Contrasts]

    plan: Plan
    recipe: R

    @classmethod
    def of(cls, plan: Plan) -> System[Any]:
        """The system of a plan, whose recipe is of its class."""
        return cls(plan, plan.recipe)  # type: ignore[arg-type]

    @abstractmethod
    def rows(self) -> list[StudyRow]:
        """Every row of every target's table, baselines first."""

    def weights_row(
        self,
        target: str,
        row: str,
        about: str,
        weights: WeightsStage,
        *,
        published: bool = False,
        cost: Cost | None = None,
    ) -> StudyRow:
        """A row of weights that a stage leaves, with its evaluation."""
        evaluation = self.plan.evaluation(target, row, weights)
        return StudyRow(target, row, about, weights, [evaluation], published=published, cost=cost)

    def further(self) -> list[Stage]:
        """More stages to run, for the tables beside the rows."""
        return []

    def tables(self, run: Path, timings: Mapping[str, float]) -> list[ReportTable]:
        """The tables beside the rows, out of finished stages."""
        return []

    def notes(self, run: Path) -> list[str]:
        """What a reader must know beside the numbers."""
        return []

    @abstractmethod
    def branch(self, stage: TrainingStage) -> Branch:
        """What a training is, beside its learning curve."""

    @abstractmethod
    def training_words(self) -> str:
        """The training in half a sentence, for the report's summary."""
