"""Folders that version 0.1 wrote, of every form, open as they are and give the same answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import weft
from weft.data.catalogue import load_catalogue
from weft.recommenders.forms import (
    SavedAdapter,
    SavedAlone,
    SavedCheckpoint,
    SavedForm,
    SavedIntegrator,
    SavedZeroShot,
    read_form,
)
from weft.recommenders.item_counts import load_item_counts
from weft.recommenders.saved import save_recommender

OLD = Path(__file__).parent / "folders_of_0_1"
FORMS: dict[str, type[SavedForm]] = {
    "adapter": SavedAdapter,
    "checkpoint": SavedCheckpoint,
    "integrator": SavedIntegrator,
    "popularity": SavedAlone,
    "zero_shot": SavedZeroShot,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, as asking stores item vectors beside a recommender."""
    return Path(shutil.copytree(OLD, tmp_path_factory.mktemp("old") / "folders"))


@pytest.fixture(autouse=True)
def where_they_were_written(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 0.1 named a backbone as it was given: here a path from where it ran."""
    monkeypatch.chdir(folders)


def answers(folder: Path) -> list[list[tuple[str, float]]]:
    loaded = weft.load_recommender(folder, precision="float32")
    assert loaded.split == "by_user"
    asked = loaded.ask([["red mug", "i9"], ["i40"]], k=3)
    return [[(one.item_id, one.score) for one in answer.suggestions] for answer in asked]


def same(found: list[list[tuple[str, float]]], form: str) -> None:
    expected = json.loads((OLD / "answers.json").read_text())[form]
    for answer, wanted in zip(found, expected, strict=True):
        assert [item for item, _ in answer] == [item for item, _ in wanted]
        np.testing.assert_allclose([s for _, s in answer], [s for _, s in wanted], rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_an_old_folder_answers_as_it_did(form: str, folders: Path) -> None:
    assert type(read_form(folders / form)) is FORMS[form]
    same(answers(folders / form), form)


@pytest.mark.parametrize("form", FORMS)
def test_an_old_folder_is_published_anew(form: str, folders: Path, tmp_path: Path) -> None:
    """Whatever a folder holds, one call writes it elsewhere."""
    catalogue = load_catalogue(folders / form)
    counts = load_item_counts(folders / form, catalogue)
    save_recommender(read_form(folders / form), catalogue, tmp_path / form, counts=counts)
    for file in (one for one in (folders / form).rglob("*") if one.is_file()):
        if ".vectors" not in file.parts and file.suffix != ".json":
            copy = tmp_path / form / file.relative_to(folders / form)
            assert copy.read_bytes() == file.read_bytes(), file
    same(answers(tmp_path / form), form)
