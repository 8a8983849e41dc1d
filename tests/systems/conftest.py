from __future__ import annotations

from pathlib import Path

import pytest
from tiny import save_encoder
from world import recipe

from weft.report.model import RunReport
from weft.settings import validate
from weft.systems.runner import run
from weft.systems.weaverec.recipe import WeaveRecRecipe


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder("bert", tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="session")
def finished(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunReport]:
    folder = tmp_path_factory.mktemp("run")
    report = run(validate(WeaveRecRecipe, recipe(backbone)), folder, workers=2)
    return folder, report
