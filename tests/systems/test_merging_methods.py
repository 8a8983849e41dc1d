"""Merging methods as rows of a study: every one of them from a recipe."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from world import recipe

from weft.adapters import load_adapter
from weft.artifacts.atomic import read_json
from weft.errors import WeftError
from weft.merging import merge_adapters
from weft.merging.methods import METHODS
from weft.merging.weights import resolve_weights
from weft.settings import validate
from weft.systems.plan import Plan
from weft.systems.registry import system_of
from weft.systems.runner import run
from weft.systems.stages.domains import TakeCatalogue
from weft.systems.stages.learning import LearnWeights
from weft.systems.stages.merging import MergeAdapters
from weft.systems.stages.training import TrainBranch
from weft.systems.weaverec.algorithm import WeaveRec
from weft.systems.weaverec.recipe import WeaveRecRecipe

PAIR = [{"name": "home"}, {"name": "toys", "target": False}]


def study(backbone: Path, **merge: Any) -> WeaveRecRecipe:
    values = recipe(backbone, domains=PAIR, merge=merge, controls=["naive"], show_users=0)
    return validate(WeaveRecRecipe, values)


@pytest.fixture(scope="module")
def finished(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose branches the other tests reuse."""
    folder = tmp_path_factory.mktemp("plain")
    run(study(backbone), folder, workers=1)
    return folder


def test_every_method_is_a_row_beside_the_woven_one(
    backbone: Path, finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished / "stages", folder / "stages")
    several = [name for name, one in METHODS.items() if one.takes != "1"]
    every = study(backbone, beside=several)
    report = run(every, folder, workers=1)
    names = {row.name for row in report.domains[0].rows}
    for method in several:
        assert {f"hybrids, {method}", f"naive, {method}"} <= names
    trained = {path.name for path in (folder / "stages").glob("TrainBranch-*")}
    assert trained == {path.name for path in (finished / "stages").glob("TrainBranch-*")}


def test_a_row_is_the_merge_that_its_recipe_says(
    backbone: Path, finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished / "stages", folder / "stages")
    said = study(backbone, method={"name": "ties", "density": 0.5}, weights=[0.75, 0.25], rank=2)
    run(said, folder, workers=1)
    merged = load_adapter(folder / "recommenders" / "home" / "weaverec")
    hybrids = WeaveRec.of(Plan(said, None, "cpu")).hybrids("home")
    parts = [load_adapter(one.folder(folder) / "adapter") for one in hybrids]
    method = {"name": "ties", "density": 0.5}
    again = merge_adapters(parts, method, [0.75, 0.25], rank=2)
    assert merged.weights_hash == again.weights_hash
    manifest = read_json(folder / "recommenders" / "home" / "weaverec" / "weft.json")
    assert manifest["merge"]["weights"] == [0.75, 0.25]
    assert manifest["merge"]["rank"] == 2


def test_the_number_of_workers_changes_no_byte(
    backbone: Path, finished: Path, tmp_path: Path
) -> None:
    run(study(backbone), tmp_path / "two", workers=2)
    assert (tmp_path / "two" / "report.json").read_bytes() == (
        finished / "report.json"
    ).read_bytes()


def test_weights_and_methods_that_cannot_be_are_refused_before_training(backbone: Path) -> None:
    with pytest.raises(WeftError, match="tise"):
        study(backbone, method="tise")
    three = recipe(backbone, merge={"method": "slerp"})
    plan = Plan(validate(WeaveRecRecipe, three), None, "cpu")
    with pytest.raises(WeftError, match="slerp"):
        system_of(plan).rows()
    short = study(backbone, weights=[1.0, 0.0, 0.0])
    with pytest.raises(WeftError, match="2 weights are needed, not 3"):
        system_of(Plan(short, None, "cpu")).rows()


def test_a_plain_linear_merge_keeps_its_stage(backbone: Path) -> None:
    """Naming the default spelled out is the same study: nothing is merged or measured again."""
    one, other = (
        WeaveRec.of(Plan(said, None, "cpu")).weave("home").key
        for said in (study(backbone), study(backbone, method={"name": "linear"}))
    )
    assert one == other


@pytest.mark.parametrize("weights", ["domain", "layer"])
def test_weights_learned_from_catalogues_are_a_row(
    backbone: Path, finished: Path, tmp_path: Path, weights: str
) -> None:
    """From 1/K on; the row is the merge by what was learned, and learning saw items alone."""
    folder = tmp_path / "run"
    shutil.copytree(finished / "stages", folder / "stages")
    how = {"steps": 8, "learning_rate": 0.02, "held_out": 8, "weights": weights}
    said = study(backbone, weights="collaborative", collaborative=how)
    run(said, folder, workers=1)
    woven = WeaveRec.of(Plan(said, None, "cpu")).weave("home")
    assert isinstance(woven, MergeAdapters) and isinstance(woven.weights, LearnWeights)
    learned = woven.weights.record(folder)
    values = [value for row in learned["coefficients"] for value in row]
    assert all(1e-4 < abs(value - 0.5) < 0.3 for value in values)
    assert {type(one) for one in woven.weights.parents.values()} == {TrainBranch, TakeCatalogue}
    parts = [one.adapter(folder) for one in woven.parts]
    found = load_adapter(folder / "recommenders" / "home" / "weaverec")
    names = list(parts[0].factors)
    resolved = resolve_weights(learned["weights"], names, ("a", "b"))
    assert merge_adapters(parts, weights=resolved).weights_hash == found.weights_hash


def test_collaborative_weights_need_a_bi_encoder(backbone: Path) -> None:
    values = recipe(backbone, merge={"weights": "collaborative"}, show_users=0)
    values["recommender"] = {"kind": "cross_encoder"}
    values["evaluate"] = values["evaluate"] | {"full": False}
    values["headline"] = ["ndcg@1"]
    with pytest.raises(WeftError, match="collaborative needs a bi_encoder recommender"):
        validate(WeaveRecRecipe, values)
