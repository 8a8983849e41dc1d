"""What every stage of a recipe says of itself: what group it is of, and how much it has to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from weft.data.domain import Domain, Examples
from weft.data.splits import SplitSettings, make_split
from weft.stages.stage import Stage

Group = Literal["training", "evaluation", "other"]


@dataclass(frozen=True)
class DomainSizes:
    """The sizes of one domain: catalogue items, training examples, users to measure."""

    items: int
    train: int
    validation: int
    test: int

    @classmethod
    def of(cls, domain: Domain, split: SplitSettings) -> DomainSizes:
        parts = make_split(domain, split)
        return cls(
            len(domain.items), len(parts.train), _users(parts.validation), _users(parts.test)
        )


def _users(examples: Examples) -> int:
    return len(np.unique(examples.user))


@dataclass(frozen=True)
class Work:
    """What a stage does: the examples it trains on, the titles and users it reads, how many merges
    it does. Where users are read with each candidate, `titles` are the pairs."""

    examples: float = 0
    titles: float = 0
    users: float = 0
    merges: float = 0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.examples + other.examples,
            self.titles + other.titles,
            self.users + other.users,
            self.merges + other.merges,
        )

    def times(self, count: float) -> Work:
        """So many times the same."""
        return Work(
            self.examples * count, self.titles * count, self.users * count, self.merges * count
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class RecipeStage(Stage):
    """A stage of a recipe."""

    group: ClassVar[Group] = "other"

    def work(self, sizes: Mapping[str, DomainSizes]) -> Work:
        """How much there is to do, over domains of known sizes (by name)."""
        return Work()

    @property
    def pace_group(self) -> str:
        """Stages of one group go at one pace."""
        return type(self).__name__


def work_of(stage: Stage, sizes: Mapping[str, DomainSizes]) -> Work:
    """The work of any stage; that of one that says nothing of it is none."""
    return stage.work(sizes) if isinstance(stage, RecipeStage) else Work()


def group_of(stage: Stage) -> Group:
    return stage.group if isinstance(stage, RecipeStage) else "other"


def pace_group_of(stage: Stage) -> str:
    return stage.pace_group if isinstance(stage, RecipeStage) else type(stage).__name__
