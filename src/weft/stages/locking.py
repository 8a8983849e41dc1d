"""One process at a time in a run's folder."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from weft.artifacts.leftovers import remove_leftovers
from weft.errors import BusyError
from weft.stages.stage import STAGES


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run's folder for this process alone; a second one is refused with a `BusyError`. What a
    killed process left half-written is removed."""
    run.mkdir(parents=True, exist_ok=True)
    with (run / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BusyError(f"another process is working in {run}; wait for it") from None
        for part in (run / STAGES).glob(".*.part*"):
            shutil.rmtree(part, ignore_errors=True)
        for place in (run, *run.glob("results/*"), *run.glob("recommenders/*")):
            remove_leftovers(place)
        yield
