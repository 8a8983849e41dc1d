"""A run's folder of an earlier format is refused in one sentence; what people use of it stays."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from world import recipe

import weft
from weft.artifacts.atomic import read_json, write_json
from weft.errors import MismatchError
from weft.report.model import RunReport
from weft.settings import validate
from weft.systems.runner import dry_run, run
from weft.systems.weaverec.recipe import WeaveRecRecipe


def test_an_old_run_is_not_gone_on_with_and_not_lost(
    finished: tuple[Path, RunReport], backbone: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    for path in folder.glob("stages/*/stage.json"):  # as weft 0.1 wrote them
        record = read_json(path)
        del record["format"], record["stage"]
        write_json(path, record | {"work": "train_branch"})
        path.parent.rename(path.parent.with_name(f"train_branch-{path.parent.name[-16:]}"))
    before = sorted(folder.rglob("*"))
    study = validate(WeaveRecRecipe, recipe(backbone))
    for call in (run, dry_run):
        with pytest.raises(MismatchError) as caught:
            call(study, folder, workers=1)
        words = str(caught.value)
        assert str(folder) in words and "name another --out" in words and ". " not in words
    assert sorted(folder.rglob("*")) == before
    assert RunReport.load(folder) == finished[1]
    recommender = weft.load_recommender(folder / "recommenders" / "toys" / "weaverec")
    assert len(recommender.ask([[recommender.catalogue.titles[0]]], k=3)[0].suggestions) == 3
