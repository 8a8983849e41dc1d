"""A finished stage's files stand in its stage.json, and are checked by size and hash."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from in_place import InPlace
from words import chain

from weft.artifacts.atomic import read_json, write_json
from weft.artifacts.inventory import take_inventory
from weft.stages.executor import execute, run_stages
from weft.stages.graph import discard_damaged, missing
from weft.stages.stage import Stage

FIRST, SECOND = chain("a"), chain("a", "b")


def do(*stages: Stage, run: Path) -> None:
    for stage in stages:
        execute(stage, run, lambda *_: None)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run_stages([SECOND], tmp_path, InPlace())
    return tmp_path


def edit(path: Path, **changes: Any) -> None:
    write_json(path, read_json(path) | changes)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "deep/text is missing": lambda folder: (folder / "deep" / "text").unlink(),
    "deep/text has 0 bytes, not 2": lambda folder: (folder / "deep" / "text").write_text(""),
    "deep/text has 1 bytes, not 2": lambda folder: (folder / "deep" / "text").write_text("a"),
    "deep/text was changed": lambda folder: (folder / "deep" / "text").write_text("xx"),
    "empty has 1 bytes, not 0": lambda folder: (folder / "empty").write_text("1"),
    "more was added": lambda folder: (folder / "more").write_text("1"),
    "stage.json does not exist": lambda folder: (folder / "stage.json").unlink(),
    "stage.json is not valid JSON": lambda folder: (folder / "stage.json").write_text("{"),
    "stage.json does not say how long": lambda folder: edit(folder / "stage.json", seconds=None),
    "stage.json has no list of files": lambda folder: edit(folder / "stage.json", files=[1]),
    "empty can't be read": lambda folder: [(folder / "empty").unlink(), os.mkfifo(folder / "empty")],
    "it is no folder": lambda folder: [shutil.rmtree(folder), folder.write_text("1")],
}  # fmt: skip


@pytest.mark.parametrize("words", DAMAGES)
def test_a_damaged_stage_is_discarded_and_named(words: str, run: Path) -> None:
    assert discard_damaged([SECOND], run) == []
    folder = SECOND.folder(run)
    DAMAGES[words](folder)
    (sentence,) = discard_damaged([SECOND], run)
    assert sentence.startswith(f"b was damaged ({words}")
    assert sentence.endswith(f"{folder}) and is made again")
    assert not folder.exists() and FIRST.folder(run).is_dir()
    assert missing([SECOND], run) == [SECOND]


def test_what_a_stage_left_is_in_its_record(run: Path) -> None:
    record = read_json(SECOND.folder(run) / "stage.json")
    assert record["files"].keys() == {"deep/text", "empty"}
    assert record["files"]["deep/text"][0] == 2
    os.utime(SECOND.folder(run) / "empty")
    (SECOND.folder(run) / ".hidden").write_text("of a file manager")
    assert discard_damaged([SECOND], run) == []


def test_a_stage_made_again_alike_changes_nothing_for_those_that_rest_on_it(run: Path) -> None:
    (FIRST.folder(run) / "empty").unlink()
    assert len(discard_damaged([SECOND], run)) == 1
    assert missing([SECOND], run) == [] and missing([FIRST, SECOND], run) == [FIRST]
    do(FIRST, run=run)
    assert missing([FIRST, SECOND], run) == []


def test_a_stage_made_again_otherwise_has_what_rests_on_it_made_again(run: Path) -> None:
    folder = FIRST.folder(run)
    (folder / "deep" / "text").write_text("c")
    edit(folder / "stage.json", files=take_inventory(folder, ["deep/text", "empty"]))
    assert discard_damaged([SECOND], run) == []
    assert missing([SECOND], run) == [SECOND]
