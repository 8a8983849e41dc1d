"""An executor of a few lines, to show that any other fits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from weft.stages.executor import Bounds, Ended, Progressed, execute
from weft.stages.stage import Stage


class InPlace:
    """Does stages one after another where it is."""

    bounds = Bounds()

    def __init__(self) -> None:
        self.happened: list[Progressed | Ended] = []

    def __enter__(self) -> InPlace:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def submit(self, stage: Stage, run: Path) -> None:
        def report(done: float, total: float, unit: str) -> None:
            self.happened.append(Progressed(stage.key, done, total, unit))

        try:
            execute(stage, run, report)
        except Exception as error:
            self.happened.append(Ended(stage.key, error))
        else:
            self.happened.append(Ended(stage.key))

    def events(self, seconds: float) -> Iterator[Progressed | Ended]:
        happened, self.happened = self.happened, []
        yield from happened

    def kill(self) -> None:
        pass
