"""Stages that choose among several others by what those reached on validation users."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.artifacts.atomic import read_json
from weft.systems.stages.base import RecipeStage

CHOICE = "choice.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class ChoiceStage(RecipeStage):
    """Leaves the places of the chosen, best first, and what they were measured at."""

    def record(self, run: Path) -> dict[str, Any]:
        """All that it wrote: `chosen`, and what its kind adds."""
        record: dict[str, Any] = read_json(self.folder(run) / CHOICE)
        return record

    def chosen(self, run: Path) -> list[int]:
        """Places among what was to choose from."""
        return [int(place) for place in self.record(run)["chosen"]]
