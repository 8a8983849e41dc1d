"""What a system tells the one runner of recipes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from weft.report.model import Branch, Table
from weft.stages.stage import Stage
from weft.systems.measured import Measured

Contrasts = tuple[tuple[str, str, str], ...]
"""(row, against, what the difference tells)."""


class System(Protocol):
    """A published system over one plan."""

    @property
    def title(self) -> str: ...

    @property
    def baseline(self) -> str:
        """The row that every other is compared with."""
        ...

    @property
    def featured(self) -> str:
        """The row that the system is about."""
        ...

    @property
    def contrasts(self) -> Contrasts: ...

    def measured(self) -> list[Measured]:
        """Every row of every target's table, floors first."""
        ...

    def further(self) -> list[Stage]:
        """More stages to run, for the tables beside the rows."""
        ...

    def tables(self, run: Path, timings: Mapping[str, float]) -> list[Table]:
        """The tables beside the rows, out of finished stages."""
        ...

    def notes(self, run: Path) -> list[str]:
        """What a reader must know beside the numbers."""
        ...

    def branch(self, stage: Stage) -> Branch:
        """What a stage with a learning curve is."""
        ...

    def said(self) -> str:
        """The training in half a sentence, for the report's summary."""
        ...
