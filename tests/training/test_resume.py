"""A run that is killed and started again ends with the bits of an undisturbed one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from small_runs import SETTINGS, TIMED, small_run
from torch import Tensor

from weft.training import Trained
from weft.training.checkpoint import FILE, Saver

SCRIPT = Path(__file__).with_name("small_runs.py")


@pytest.fixture(scope="module")
def undisturbed(tiny_bert: Path) -> tuple[dict[str, Tensor], Trained]:
    return small_run(tiny_bert)


def killed(folder: Path, checkpoints: Path, until: str, *options: str) -> list[str]:
    """Run the program, SIGKILL it when it says `until`; what it had said."""
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, str(SCRIPT), str(folder), str(checkpoints), *options]
    said: list[str] = []
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | threads,
    ) as program:
        assert program.stdin is not None and program.stdout is not None
        for line in program.stdout:
            said.append(line.strip())
            if said[-1] == until:
                program.kill()
                break
            program.stdin.write("\n")
            program.stdin.flush()
    assert program.returncode == -9, said
    return said


def same(one: tuple[dict[str, Tensor], Trained], other: tuple[dict[str, Tensor], Trained]) -> bool:
    equal = all(torch.equal(one[0][name], other[0][name]) for name in one[0])
    return equal and one[0].keys() == other[0].keys() and one[1] == other[1]


def test_three_kills_leave_no_trace(
    tiny_bert: Path, tmp_path: Path, undisturbed: tuple[dict[str, Tensor], Trained]
) -> None:
    """Before the first checkpoint, while the second is written, and right after a checkpoint."""
    assert killed(tiny_bert, tmp_path, "step 2")[0] == "step 1"
    assert not (tmp_path / FILE).exists()
    killed(tiny_bert, tmp_path, "half", "half")
    assert len(list(tmp_path.glob(".*.part"))) == 1
    said = killed(tiny_bert, tmp_path, "step 9")
    assert said[0] == "step 4"  # the checkpoint of step 3 was whole
    steps: list[int] = []
    finished = small_run(
        tiny_bert, checkpoints=tmp_path, report=lambda step, *_: steps.append(step)
    )
    assert steps == [10, 11, 12]
    assert same(finished, undisturbed)
    assert not list(tmp_path.glob(".*.part"))


def test_a_branch_of_few_slow_steps_is_not_lost(
    tiny_bert: Path, tmp_path: Path, undisturbed: tuple[dict[str, Tensor], Trained]
) -> None:
    """Saved by time alone, whatever the number of steps, it goes on after its last one; and when
    states are saved decides nothing, so that a run begun with other intervals goes on too."""
    assert killed(tiny_bert, tmp_path, "step 5", "timed")[0] == "step 1"
    steps: list[int] = []
    finished = small_run(
        tiny_bert, checkpoints=tmp_path, report=lambda step, *_: steps.append(step)
    )
    assert steps[0] == 6
    assert same(finished, undisturbed)
    assert TIMED.checkpoint_every is None and SETTINGS.checkpoint_every == 3


def test_states_are_saved_by_seconds_and_by_steps() -> None:
    now = [100.0]
    saver = Saver(None, 60.0, lambda: now[0])
    due: list[int] = []
    for step in range(1, 11):  # of 25 seconds each; a save takes 30
        now[0] += 25
        if saver.due(step):
            due.append(step)
            now[0] += 30
            saver.saved()
    assert due == [3, 6, 9]
    both = Saver(4, 60.0, lambda: now[0])
    assert [step for step in range(1, 10) if both.due(step)] == [4, 8]
    now[0] += 60
    assert both.due(9)


@pytest.fixture(scope="module")
def stopped(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that ended by an exception at step 7."""
    folder = tmp_path_factory.mktemp("stopped")

    def stop(step: int, *_: float) -> None:
        if step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small_run(tiny_bert, checkpoints=folder, report=stop)
    return folder


def first_step(folder: Path, checkpoints: Path, **options: object) -> int:
    steps: list[int] = []

    def report(step: int, *_: float) -> None:
        steps.append(step)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small_run(folder, checkpoints=checkpoints, report=report, **options)  # type: ignore[arg-type]
    return steps[0]


def test_a_checkpoint_of_something_else_is_ignored(
    tiny_bert: Path, stopped: Path, tmp_path: Path
) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(stopped, tmp_path / name))

    assert first_step(tiny_bert, copy("same")) == 7
    assert first_step(tiny_bert, copy("seed"), seed=2) == 1
    slower = SETTINGS.model_copy(update={"learning_rate": 0.02})
    assert first_step(tiny_bert, copy("settings"), settings=slower) == 1
    assert first_step(tiny_bert, copy("start"), start="other weights") == 1


@pytest.mark.parametrize("damage", ["empty", "half", "a bit"])
def test_a_damaged_checkpoint_is_ignored(
    damage: str,
    tiny_bert: Path,
    stopped: Path,
    tmp_path: Path,
    undisturbed: tuple[dict[str, Tensor], Trained],
) -> None:
    folder = Path(shutil.copytree(stopped, tmp_path / "run"))
    content = bytearray((folder / FILE).read_bytes())
    if damage == "a bit":
        content[-5] ^= 1
        with safe_open(stopped / FILE, framework="pt") as file:
            assert "hash" in file.metadata()
    kept = {"empty": b"", "half": content[: len(content) // 2], "a bit": content}[damage]
    (folder / FILE).write_bytes(kept)
    if damage == "a bit":
        assert same(small_run(tiny_bert, checkpoints=folder), undisturbed)
    else:
        assert first_step(tiny_bert, folder) == 1
