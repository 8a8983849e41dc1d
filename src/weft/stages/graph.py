"""Stages as a graph: what rests on what, and what is still to do."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from weft.stages.records import content, damage, read_record
from weft.stages.stage import Stage


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

    A finished stage needs no parents, but where one was done again and came out otherwise than
    the one that it rests on, it is to do again too.
    """
    contents = functools.cache(content)

    def done(stage: Stage) -> bool:
        folder = stage.folder(run)
        if not folder.is_dir():
            return False
        before = read_record(folder).get("parents")
        if not isinstance(before, dict):
            return True  # damaged: see `discard_damaged`
        now = {name: contents(parent.folder(run)) for name, parent in stage.parents.items()}
        return all(
            None in (hashed, now.get(name)) or now[name] == hashed
            for name, hashed in before.items()
        )

    return reached(stages, done)


def discard_damaged(stages: Iterable[Stage], run: Path) -> list[str]:
    """Remove the finished stages whose files are not those that they left; a sentence for each.

    Every file is read and hashed once.
    """
    sentences = []
    for stage in reached(stages):
        folder = stage.folder(run)
        wrong = damage(folder) if os.path.lexists(folder) else None
        if wrong is not None:
            sentences.append(f"{stage.label} was damaged ({wrong}, {folder}) and is made again")
            if folder.is_dir() and not folder.is_symlink():
                shutil.rmtree(folder)
            else:
                folder.unlink()
    return sentences
