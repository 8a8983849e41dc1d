"""Stages: pieces of a run, each keyed by the hash of its settings and of the stages it needs.

A finished stage is a folder named by its key, so the same run again finds it and does nothing.
A killed one leaves nothing but its scratch folder, from which the next attempt may go on.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from weft.artifacts.atomic import new_directory, write_json
from weft.artifacts.hashing import hash_json
from weft.errors import WeftError

FORMAT = 1  # raised when a stage's folder or meaning changes, so that old ones are not found
Say = Callable[[float, float, str], None]
"""Called with the work done, the work in all, and the unit."""


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
        return hash_json([FORMAT, self.work.__name__, dict(self.settings), parents])

    @property
    def name(self) -> str:
        return f"{self.work.__name__}-{self.key[:16]}"

    def folder(self, run: Path) -> Path:
        return run / "stages" / self.name


def missing(stages: Iterable[Stage], run: Path) -> list[Stage]:
    """The stages still to do, parents before children; each once."""
    order: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        if stage.key in order or stage.folder(run).is_dir():
            return
        for parent in stage.parents.values():
            visit(parent)
        order[stage.key] = stage

    for stage in stages:
        visit(stage)
    return list(order.values())


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
    with new_directory(folder) as out:
        work(Task(settings, parents, out, scratch, say))
        write_json(out / "stage.json", {"work": work.__name__, "settings": dict(settings)})
    shutil.rmtree(scratch)


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run's folder for this process alone; a second one is refused."""
    run.mkdir(parents=True, exist_ok=True)
    with (run / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise WeftError(f"another process is working in {run}; wait for it") from None
        for left in (run / "stages").glob(".*.part*"):  # of a killed process
            shutil.rmtree(left, ignore_errors=True)
        yield


def unused(stages: Sequence[Stage], run: Path) -> list[Path]:
    """Folders of finished stages that none of these stages, nor what they rest on, needs."""
    wanted: set[str] = set()

    def visit(stage: Stage) -> None:
        if stage.name not in wanted:
            wanted.add(stage.name)
            for parent in stage.parents.values():
                visit(parent)

    for stage in stages:
        visit(stage)
    return [p for p in sorted((run / "stages").glob("*-*")) if p.name not in wanted]
