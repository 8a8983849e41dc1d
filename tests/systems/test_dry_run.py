"""`weft run --dry-run` refuses what the run itself would fail on."""

from __future__ import annotations

from pathlib import Path

import pytest
from world import recipe

from weft.errors import WeftError
from weft.settings import validate
from weft.systems.runner import dry_run
from weft.systems.weaverec.recipe import WeaveRecRecipe


def test_a_text_column_that_is_not_there_is_refused(backbone: Path, tmp_path: Path) -> None:
    text = {"kind": "bi_encoder", "text": {"fields": ["colour"]}}
    with pytest.raises(WeftError, match="the catalogue has no field 'colour'"):
        dry_run(validate(WeaveRecRecipe, recipe(backbone, recommender=text)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
