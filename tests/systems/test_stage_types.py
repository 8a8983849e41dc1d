"""A type checker finds what is misspelt between a plan, a stage and its readers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import weft

# Stages alone are followed: the rest of the house, and torch, would take a minute.
CONFIG = """
[mypy]
strict = True
follow_imports = skip
disallow_any_unimported = False
disallow_subclassing_any = False
mypy_path = {source}
[mypy-weft.stages.*]
follow_imports = silent
[mypy-weft.systems.stages.*]
follow_imports = silent
"""
SNIPPET = """
from pathlib import Path
from weft.systems.stages.evaluation import EvaluateWeights
from weft.systems.stages.training import TrainBranch, TrainingStage


def plan(like: TrainBranch) -> TrainBranch:
    return TrainBranch(
        domains=like.domains, scoring=like.scoring, split=like.split, examples=8,
        train=like.train, validation=None, data_seed=1, seed=2, lora=like.lora, init_seed=3,
    )


def read(stage: TrainBranch, run: Path) -> object:
    return stage.adapter(run), stage.curve(run), stage.data_seed
"""


def errors(tmp_path: Path, name: str, text: str) -> str:
    """What mypy prints; a file of its own each time, since its cache knows files by size and second."""
    config, file = tmp_path / "mypy.ini", tmp_path / f"{name}.py"
    config.write_text(CONFIG.format(source=Path(weft.__file__).parents[1]))
    file.write_text(text)
    command = [sys.executable, "-m", "mypy", "--config-file", str(config), "--no-error-summary",
               "--cache-dir", str(tmp_path.parent / "mypy-cache"), str(file)]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path).stdout


def test_what_is_misspelt_is_found_before_anything_runs(tmp_path: Path) -> None:
    assert errors(tmp_path, "right", SNIPPET) == ""
    misspelt = SNIPPET.replace("data_seed=1", "data_seeds=1")
    assert 'Unexpected keyword argument "data_seeds" for "TrainBranch"' in errors(
        tmp_path, "misspelt", misspelt
    )
    unread = SNIPPET.replace("stage.data_seed", "stage.data_seeds")
    assert '"TrainBranch" has no attribute "data_seeds"' in errors(tmp_path, "unread", unread)
