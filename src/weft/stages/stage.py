"""Stages: pieces of a run, each keyed by the hash of its settings and of the stages it needs.

A finished stage is a folder named by its key, so the same run again finds it and does nothing.
A killed one leaves nothing but its scratch folder, from which the next attempt may go on.
"""

from __future__ import annotations

import fcntl
import functools
import os
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
from weft.artifacts.documents import read_object
from weft.artifacts.hashing import hash_json
from weft.artifacts.inventory import difference, parse_inventory, take_inventory
from weft.artifacts.leftovers import remove_leftovers
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
    """The stages still to do, parents before children; each once.

    A finished stage needs no parents, but where one was made again and came out otherwise than
    the one that it was made from, it is to do again too.
    """
    contents = functools.cache(lambda folder: content(folder))

    def done(stage: Stage) -> bool:
        folder = stage.folder(run)
        if not folder.is_dir():
            return False
        rests = read_record(folder).get("parents")
        if not isinstance(rests, dict):
            return True  # of an earlier version, or damaged: see `discard_damaged`
        now = {name: contents(parent.folder(run)) for name, parent in stage.parents.items()}
        return all(
            None in (before, now.get(name)) or now[name] == before for name, before in rests.items()
        )

    return reached(stages, done)


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
            "parents": {name: content(parent) for name, parent in parents.items()},
            "files": take_inventory(out),
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


def read_record(folder: Path) -> dict[str, Any]:
    """A finished stage's stage.json; empty where it can't be read."""
    try:
        return read_object(folder / STAGE_FILE)
    except WeftError:
        return {}


def content(folder: Path) -> str | None:
    """A hash of all that a finished stage left, as its stage.json has it; None where it says
    nothing of that."""
    files = parse_inventory(read_record(folder).get("files"))
    return None if files is None else hash_json(files)


def discard_damaged(stages: Iterable[Stage], run: Path) -> list[str]:
    """Remove the finished stages whose files are not those that they left; a sentence for each.

    Every file is read and hashed once. Stages of versions that kept no hashes are only looked at
    for their stage.json.
    """
    sentences = []
    for stage in reached(stages):
        folder = stage.folder(run)
        wrong = damage(folder) if os.path.lexists(folder) else None
        if wrong is not None:
            name = stage.label or stage.name
            sentences.append(f"{name} was damaged ({wrong}, {folder}) and is made again")
            if folder.is_dir() and not folder.is_symlink():
                shutil.rmtree(folder)
            else:
                folder.unlink()
    return sentences


def damage(folder: Path) -> str | None:
    """What is wrong with a finished stage's folder, in a few words."""
    if not folder.is_dir():
        return "it is no folder"
    try:
        record = read_object(folder / STAGE_FILE)
    except WeftError as error:
        return str(error).replace(str(folder / STAGE_FILE), STAGE_FILE)
    if not isinstance(record.get("seconds"), int | float):
        return f"{STAGE_FILE} does not say how long it took"
    if "files" not in record:
        return None
    files = parse_inventory(record["files"])
    if files is None:
        return f"{STAGE_FILE} has no list of files"
    return difference(folder, files, besides={STAGE_FILE})


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
        for place in (run, *run.glob("results/*"), *run.glob("recommenders/*")):
            remove_leftovers(place)
        yield
