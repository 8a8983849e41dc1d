"""A run killed at any instant and started again ends with the very files of an undisturbed one."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
from pathlib import Path

from world import recipe, write_recipe

SMALL = {
    "domains": [{"name": "home"}, {"name": "toys", "target": False}],
    "controls": ["soup", "matched", "naive", "factors"],
}
FILES = ("report.json", "run.json")  # report.md also says how long things took


def start(recipe_file: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "weft.cli.main", "run", str(recipe_file), "--out", str(out)]
    return subprocess.Popen(
        [*command, "--workers", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> list[str]:
    assert process.stderr is not None
    lines = process.stderr.readlines()
    assert process.wait() == 0, "".join(lines)
    return lines


def contents(out: Path) -> dict[str, bytes]:
    """All results, and all adapters, byte for byte."""
    files = [out / name for name in FILES]
    files += sorted(p for p in (out / "results").rglob("*") if p.is_file())
    files += sorted(p for p in (out / "recommenders").rglob("*") if p.is_file())
    return {str(file.relative_to(out)): file.read_bytes() for file in files}


def test_five_kills_change_nothing(backbone: Path, tmp_path: Path) -> None:
    recipe_file = write_recipe(tmp_path / "tiny.yaml", recipe(backbone, **SMALL))
    events = finish(start(recipe_file, tmp_path / "calm"))
    calm = contents(tmp_path / "calm")
    chance = random.Random(0)
    out = tmp_path / "killed"
    kills = 0
    for _ in range(5):
        # A line is a stage done. After some of them and a moment more, the process is in the
        # middle of anything: whatever instant it is, the outcome must be the same.
        process = start(recipe_file, out)
        assert process.stderr is not None
        for _ in range(chance.randint(0, len(events) // 10)):
            process.stderr.readline()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=chance.uniform(0, 0.5))
        kills += process.poll() is None
        process.kill()
        process.wait()
        process.stderr.close()
    finish(start(recipe_file, out))
    assert kills == 5
    assert contents(out) == calm


def test_a_second_process_is_refused_while_one_runs(backbone: Path, tmp_path: Path) -> None:
    recipe_file = write_recipe(tmp_path / "tiny.yaml", recipe(backbone, **SMALL))
    first = start(recipe_file, tmp_path / "run")
    assert first.stderr is not None
    first.stderr.readline()  # a stage is done: the run's folder is held
    second = start(recipe_file, tmp_path / "run")
    said = second.communicate()[1]
    assert second.returncode == 2 and "another process is working in" in said
    first.kill()
    first.wait()
    first.stderr.close()
