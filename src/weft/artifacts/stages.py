"""Stages: pieces of a run, each keyed by the hash of its settings and of the stages it needs.

A finished stage is a folder named by its key, so the same run again finds it and does nothing.
A killed one leaves nothing but its scratch folder, from which the next attempt may go on.
"""

from __future__ import annotations

import fcntl
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from weft.artifacts.atomic import new_directory, write_json
from weft.artifacts.hashing import hash_json
from weft.errors import WeftError

FORMAT = 2  # raised when the folder of every stage changes, so that old ones are not found
STAGE_FILE = "stage.json"
Say = Callable[[float, float, str], None]
"""Called with the work done, the work in all, and the unit."""


Work = TypeVar("Work", bound="Callable[[Task], None]")


def version(number: int) -> Callable[[Work], Work]:
    """Say which version of a stage's function this is; raise it when its outcome changes, so that
    what an older one made is not taken for what this one would make."""

    def mark(work: Work) -> Work:
        work.version = number  # type: ignore[attr-defined]
        return work

    return mark


@dataclass(frozen=True)
class Task:
    """What a stage's function gets: settings, finished parents, where to write."""

    settings: Mapping[str, Any]
    parents: Mapping[str, Path]
    out: Path
    scratch: Path  # kept over a kill, gone when the stage is done
    say: Say

    def parent_list(self, prefix: str) -> list[Path]:
        """The parents named prefix0, prefix1, … in order."""
        count = sum(
            name.startswith(prefix) and name[len(prefix) :].isdigit() for name in self.parents
        )
        return [self.parents[f"{prefix}{i}"] for i in range(count)]


@dataclass(frozen=True, eq=False)
class Stage:
    """One piece of work. `work` is a top-level function, so that a worker process can find it.

    `settings` hold JSON only and everything that decides the outcome; `label` is for people and
    not part of the key.
    """

    work: Callable[[Task], None]
    settings: Mapping[str, Any]
    parents: Mapping[str, Stage] = field(default_factory=dict)
    label: str = ""
    places: Mapping[str, Any] = field(default_factory=dict)
    """More settings that say where something is, not what it is: no part of the key."""

    @cached_property
    def key(self) -> str:
        parents = {name: parent.key for name, parent in self.parents.items()}
        kind = [FORMAT, self.work.__name__, getattr(self.work, "version", 1)]
        return hash_json([*kind, dict(self.settings), parents])

    @property
    def name(self) -> str:
        return f"{self.work.__name__}-{self.key[:16]}"

    def folder(self, run: Path) -> Path:
        return run / "stages" / self.name


def reached(
    stages: Iterable[Stage], stop: Callable[[Stage], bool] = lambda stage: False
) -> list[Stage]:
    """The stages and all that they rest on, each once, parents before children; a stage at which
    to `stop` is left out, and so is what only it rests on."""
    order: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        if stage.key in order or stop(stage):
            return
        for parent in stage.parents.values():
            visit(parent)
        order[stage.key] = stage

    for stage in stages:
        visit(stage)
    return list(order.values())


def missing(stages: Iterable[Stage], run: Path) -> list[Stage]:
    """The stages still to do, parents before children; each once."""
    return reached(stages, lambda stage: stage.folder(run).is_dir())


def prepare(
    stage: Stage, run: Path
) -> tuple[Callable[[Task], None], dict[str, Any], dict[str, Path], Path]:
    """The arguments of `execute`, as plain values that can cross to another process."""
    parents = {name: parent.folder(run) for name, parent in stage.parents.items()}
    return stage.work, {**stage.settings, **stage.places}, parents, stage.folder(run)


def execute(
    work: Callable[[Task], None],
    settings: Mapping[str, Any],
    parents: Mapping[str, Path],
    folder: Path,
    say: Say,
) -> None:
    """Do one stage: its folder appears whole, or an error leaves none."""
    scratch = folder.parent.parent / "scratch" / folder.name
    scratch.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with new_directory(folder) as out:
        work(Task(settings, parents, out, scratch, say))
        record = {
            "work": work.__name__,
            "settings": dict(settings),
            "versions": library_versions(),
            "seconds": round(time.monotonic() - started, 1),
        }
        write_json(out / STAGE_FILE, record)
    shutil.rmtree(scratch)


def library_versions() -> dict[str, str]:
    """What made a stage: the versions of weft, Python and the libraries that compute."""
    names = ("weft", "torch", "transformers", "tokenizers", "polars", "numpy")
    found = {"python": platform.python_version()}
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run's folder for this process alone; a second one is refused."""
    run.mkdir(parents=True, exist_ok=True)
    with (run / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise WeftError(f"another process is working in {run}; wait for it") from None
        for left in (run / "stages").glob(".*.part*"):  # of a killed process
            shutil.rmtree(left, ignore_errors=True)
        yield
