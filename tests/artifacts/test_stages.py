"""Stages: done once, whole or absent, in worker processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from weft.artifacts.atomic import read_json
from weft.errors import WeftError
from weft.stages.processes import run_stages
from weft.stages.stage import Stage, Task, locked, missing, version


def write(task: Task) -> None:
    before = "".join((folder / "text").read_text() for folder in task.parents.values())
    (task.out / "text").write_text(before + task.settings["say"])


def stumble(task: Task) -> None:
    """Fail the first time; the second time go on from what the first one left."""
    note = task.scratch / "note"
    if not note.exists():
        note.write_text("half")
        (task.out / "text").write_text("half-written")
        raise WeftError("stumbled")
    (task.out / "text").write_text(note.read_text() + " and whole")


def chain(*words: str) -> Stage:
    stage = Stage(write, {"say": words[0]}, label=words[0])
    for word in words[1:]:
        stage = Stage(write, {"say": word}, {"before": stage}, label=word)
    return stage


def test_parents_come_first_and_nothing_is_done_twice(tmp_path: Path) -> None:
    done = run_stages([chain("a", "b", "c"), chain("a", "b", "d")], tmp_path, workers=2)
    assert [stage.label for stage in done] == ["a", "b", "c", "d"]
    assert (chain("a", "b", "d").folder(tmp_path) / "text").read_text() == "abd"
    assert run_stages([chain("a", "b", "c")], tmp_path, workers=2) == []
    (last,) = run_stages([chain("a", "b", "e")], tmp_path, workers=2)
    record = read_json(last.folder(tmp_path) / "stage.json")
    assert record["settings"] == {"say": "e"} and record["seconds"] >= 0
    assert "torch" in record["versions"]


def test_a_finished_stage_needs_no_parents(tmp_path: Path) -> None:
    stage = chain("a", "b")
    run_stages([stage], tmp_path, workers=1)
    (chain("a").folder(tmp_path) / "text").unlink()
    (chain("a").folder(tmp_path) / "stage.json").unlink()
    chain("a").folder(tmp_path).rmdir()
    assert missing([stage], tmp_path) == []


def test_the_key_is_what_decides_the_outcome_and_no_more() -> None:
    one = Stage(write, {"say": "a"}, label="one", places={"path": "here"})
    assert one.key == Stage(write, {"say": "a"}, label="two", places={"path": "there"}).key
    assert one.key != Stage(write, {"say": "b"}, label="one").key
    assert one.key != Stage(stumble, {"say": "a"}, label="one").key
    assert chain("a", "b").key != chain("c", "b").key


def test_an_error_leaves_no_folder_and_the_scratch_helps_next_time(tmp_path: Path) -> None:
    stage = Stage(stumble, {}, label="stumble")
    with pytest.raises(WeftError, match="stumbled"):
        run_stages([stage], tmp_path, workers=1)
    assert not stage.folder(tmp_path).exists()
    assert list((tmp_path / "stages").iterdir()) == []
    run_stages([stage], tmp_path, workers=1)
    assert (stage.folder(tmp_path) / "text").read_text() == "half and whole"
    assert list((tmp_path / "scratch").iterdir()) == []


def test_an_error_does_not_undo_what_others_finished(tmp_path: Path) -> None:
    good = chain("a")
    with pytest.raises(WeftError):
        run_stages([good, Stage(stumble, {})], tmp_path, workers=1)
    assert good.folder(tmp_path).is_dir()


@version(2)
def write_again(task: Task) -> None:
    write(task)


def test_a_new_version_of_the_work_is_another_stage() -> None:
    before = Stage(write_again, {"say": "a"}).key
    version(3)(write_again)
    assert Stage(write_again, {"say": "a"}).key != before


def chatter(task: Task) -> None:
    """Tell far more than a pipe holds."""
    for step in range(200_000):
        task.say(step, step, "words")


def test_an_error_elsewhere_does_not_hold_a_worker_that_has_much_to_tell(tmp_path: Path) -> None:
    told: list[float] = []
    talk = Stage(chatter, {})
    with pytest.raises(WeftError, match="stumbled"):
        run_stages(
            [Stage(stumble, {}), talk],
            tmp_path,
            workers=2,
            watch=lambda event, _stage, done, _total, _unit: told.append(done),
        )
    assert talk.folder(tmp_path).is_dir() and len(told) > 100


def test_left_overs_of_a_killed_process_are_cleared(tmp_path: Path) -> None:
    left = tmp_path / "stages" / ".write-0123.abcd.part"
    left.mkdir(parents=True)
    with locked(tmp_path):
        assert not left.exists()


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with (
        locked(tmp_path),
        pytest.raises(WeftError, match="another process is working in"),
        locked(tmp_path),
    ):
        pass
