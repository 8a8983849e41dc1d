from __future__ import annotations

from pathlib import Path

import pytest
from tiny import save_encoder
from world import recipe

from weft.data.source import checked
from weft.report.model import RunReport
from weft.systems.recipe import Recipe
from weft.systems.runner import run


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder("bert", tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="session")
def finished(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunReport]:
    folder = tmp_path_factory.mktemp("run")
    report = run(checked(Recipe, recipe(backbone)), folder, workers=2)
    return folder, report
