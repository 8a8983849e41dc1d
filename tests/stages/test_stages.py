"""Stages: keyed by what decides them, done once, whole or absent, by any executor."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from in_place import InPlace
from words import Chatter, Join, Stumble, Write, chain

from weft.artifacts.atomic import read_json, write_json
from weft.errors import BusyError, MismatchError, WeftError
from weft.settings import StrictModel
from weft.stages.executor import Bounds, Executor, StageEvent, run_stages
from weft.stages.graph import missing
from weft.stages.locking import locked
from weft.stages.processes import ProcessExecutor
from weft.stages.records import refuse_older
from weft.stages.stage import Stage

TWO = ProcessExecutor(Bounds(2))
ONE = ProcessExecutor(Bounds(1))


def text(stage: Stage, run: Path) -> str:
    return (stage.folder(run) / "text").read_text()


# --- what is done


@pytest.mark.parametrize("executor", [TWO, InPlace()], ids=["processes", "in place"])
def test_parents_come_first_and_nothing_is_done_twice(tmp_path: Path, executor: Executor) -> None:
    done = run_stages([chain("a", "b", "c"), chain("a", "b", "d")], tmp_path, executor)
    assert [stage.label for stage in done] == ["a", "b", "c", "d"]
    assert chain("a", "b", "d").text(tmp_path) == "abd"
    assert run_stages([chain("a", "b", "c")], tmp_path, executor) == []
    (last,) = run_stages([chain("a", "b", "e")], tmp_path, executor)
    record = read_json(last.folder(tmp_path) / "stage.json")
    assert record["settings"] == {"word": "e", "where": "."} and record["seconds"] >= 0
    assert record["stage"] == "words.Write" and "torch" in record["versions"]


def test_a_finished_stage_needs_no_parents(tmp_path: Path) -> None:
    stage = chain("a", "b")
    run_stages([stage], tmp_path, InPlace())
    parent = chain("a").folder(tmp_path)
    parent.rename(tmp_path / "elsewhere")
    assert missing([stage], tmp_path) == []


def test_the_parents_of_a_tuple_are_all_parents(tmp_path: Path) -> None:
    joined = Join(parts=(chain("a"), chain("b")))
    assert list(joined.parents) == ["parts.0", "parts.1"]
    run_stages([joined], tmp_path, InPlace())
    assert text(joined, tmp_path) == "a b"


def test_those_who_watch_see_every_stage_start_and_end(tmp_path: Path) -> None:
    events: list[tuple[str, str]] = []

    def watch(event: StageEvent) -> None:
        events.append((event.kind, event.stage.label))

    run_stages([chain("a", "b")], tmp_path, InPlace(), watch)
    assert events == [("start", "a"), ("done", "a"), ("start", "b"), ("done", "b")]


# --- keys


class Shape(StrictModel):
    ASIDE: ClassVar[frozenset[str]] = frozenset({"logs"})

    width: int = 1
    logs: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Draw(Write):
    shape: Shape = field(default_factory=Shape)
    numbers: tuple[float, ...] = ()
    of: Write | tuple[float, ...] = ()


def test_the_key_is_what_decides_the_outcome_and_no_more() -> None:
    one = Draw(word="a", label="one", where=Path("here"))
    others = [
        Draw(word="a", label="two", where=Path("there")),
        Draw(word="a", shape=Shape(logs="x")),
    ]
    assert {one.key} == {other.key for other in others}
    different: list[Stage] = [
        one,
        Draw(word="b"),
        Write(word="a"),
        Draw(word="a", shape=Shape(width=2)),
        Draw(word="a", numbers=(0.5,)),
        Draw(word="a", before=chain("b")),
        Draw(word="a", of=chain("b")),
        Draw(word="a", of=(0.5,)),
    ]
    assert len({stage.key for stage in different}) == len(different)
    assert chain("a", "b").key != chain("c", "b").key


def test_a_new_version_of_the_work_is_another_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Stumble().key
    monkeypatch.setattr(Stumble, "version", 3)
    assert Stumble().key != before


def test_a_stage_crosses_to_another_process_with_its_key() -> None:
    stage = Join(parts=(chain("a", "b"), chain("c")), label="joined")
    key = stage.key
    there = pickle.loads(pickle.dumps(stage))
    assert "key" not in vars(there)  # it is computed there
    assert (there.key, there.label, list(there.parents)) == (key, "joined", list(stage.parents))


def test_what_can_be_no_stage_is_refused_where_it_is_declared() -> None:
    class Bare(Write):
        more: int = 1

    with pytest.raises(TypeError, match="Bare lacks its @dataclass decorator"):
        Bare(word="a")

    wrong: Any = (chain("a"), 1)
    with pytest.raises(TypeError, match="parts mixes stages and values"):
        Join(parts=wrong).parents  # noqa: B018

    function: Any = print
    with pytest.raises(TypeError, match="can't hold a builtin_function"):
        Write(word=function, label="print").key  # noqa: B018


# --- errors and interrupts


def test_an_error_leaves_no_folder_and_the_scratch_helps_next_time(tmp_path: Path) -> None:
    stage = Stumble()
    with pytest.raises(WeftError, match="stumbled"):
        run_stages([stage], tmp_path, ONE)
    assert not stage.folder(tmp_path).exists()
    assert list((tmp_path / "stages").iterdir()) == []
    run_stages([stage], tmp_path, ONE)
    assert text(stage, tmp_path) == "half and whole"
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("executor", [ONE, InPlace()], ids=["processes", "in place"])
def test_an_error_does_not_undo_what_others_finished(tmp_path: Path, executor: Executor) -> None:
    good, later = chain("a"), chain("b")
    with pytest.raises(WeftError):
        run_stages([good, Stumble(), later], tmp_path, executor)
    assert good.folder(tmp_path).is_dir() and not later.folder(tmp_path).exists()


def test_an_error_elsewhere_does_not_hold_a_worker_that_has_much_to_say(tmp_path: Path) -> None:
    amounts: list[float] = []
    talk = Chatter()
    with pytest.raises(WeftError, match="stumbled"):
        run_stages([Stumble(), talk], tmp_path, TWO, lambda event: amounts.append(event.done))
    assert talk.folder(tmp_path).is_dir() and len(amounts) > 100


@dataclass(frozen=True, kw_only=True, eq=False)
class OnGpu(Write):
    @property
    def uses_gpu(self) -> bool:
        return True


def test_bounds_hold_for_processes_and_for_gpus() -> None:
    gpu, cpu = OnGpu(word="a"), Write(word="b")
    assert not Bounds(1).room(cpu, [gpu])
    bounds = Bounds(3, gpu_stages=1)
    assert not bounds.room(gpu, [gpu]) and bounds.room(cpu, [gpu]) and bounds.room(gpu, [cpu, cpu])


# --- folders of runs


def test_left_overs_of_a_killed_process_are_cleared(tmp_path: Path) -> None:
    part = tmp_path / "stages" / ".Write-0123.abcd.part"
    part.mkdir(parents=True)
    with locked(tmp_path):
        assert not part.exists()


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with (
        locked(tmp_path),
        pytest.raises(BusyError, match="another process is working in"),
        locked(tmp_path),
    ):
        pass


def test_a_folder_of_an_earlier_format_is_refused_in_one_sentence(tmp_path: Path) -> None:
    run_stages([chain("a")], tmp_path, InPlace())
    refuse_older(tmp_path)
    old = tmp_path / "stages" / "train_branch-0123456789abcdef"
    old.mkdir()
    write_json(old / "stage.json", {"work": "train_branch", "settings": {}, "seconds": 1.0})
    with pytest.raises(MismatchError) as caught:
        refuse_older(tmp_path)
    words = str(caught.value)
    assert str(tmp_path) in words and "name another --out" in words and ". " not in words
