"""A whole MergeRec study of a mall, small enough for seconds, and what comes of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner
from world import recipe, write_recipe

import weft
from weft.cli.main import app
from weft.errors import WeftError
from weft.report.model import RunReport
from weft.stages.executor import Bounds, run_stages
from weft.stages.graph import missing, reached
from weft.stages.processes import ProcessExecutor
from weft.systems.mergerec.algorithm import MergeRec
from weft.systems.mergerec.recipe import FEATURED, MergeRecRecipe
from weft.systems.plan import Plan
from weft.systems.registry import load_recipe
from weft.systems.runner import run
from weft.systems.stages.domains import PrepareDomain, TakeCatalogue
from weft.systems.stages.learning import LearnWeights
from weft.systems.stages.merging import MergeCheckpoints
from weft.systems.stages.training import TrainCheckpoint

WEIGHT_FILE = "model.safetensors"


def values(backbone: Path, **changes: Any) -> dict[str, Any]:
    settings = {
        "system": "mergerec",
        "precision": "float32",
        "branches": {
            "parameters": "all", "examples": 48, "epochs": 2, "batch": 16, "learning_rate": 3e-3,
            "validation": {"users": 8}, "keep": "best", "validate_every": 2,
        },
        "uniform": [
            {"method": "linear", "title": "weight average"},
            {"method": "task_arithmetic", "weights": [0.1, 0.5]},
        ],
        "choose_users": 8,
        "collaborative": {"steps": 12, "batch": 8, "held_out": 12, "learning_rate": 0.02},
        "variants": {"layer-wise": {"weights": "layer"}},
        "studies": {"Probes": {"real sequences": {"sequences": True}}},
        "scarce": {"per_domain": [6], "choose": ["popular"]},
        "unseen": True,
        "seeds": [4],
        "evaluate": {"candidates": None, "full": True, "at": [1, 5, 10], "mask_history": "both"},
        "headline": ["full/recall@10", "full/ndcg@10"],
    }  # fmt: skip
    return recipe(backbone, **(settings | changes))


@pytest.fixture(scope="module")
def finished(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mergerec")
    run(
        load_recipe(write_recipe(folder / "tiny.yaml", values(backbone))), folder / "run", workers=1
    )
    return folder / "run"


def study(finished: Path) -> MergeRec:
    loaded = load_recipe(finished.parent / "tiny.yaml")
    assert isinstance(loaded, MergeRecRecipe)
    return MergeRec(Plan(loaded, None, "cpu"), loaded)


def table(report: RunReport, title: str) -> dict[str, list[str]]:
    rows = next(one for one in report.tables if one.title == title).rows
    return {row[0]: row[1:] for row in rows}


def test_every_row_is_in_every_domain_and_over_all_of_them(finished: Path) -> None:
    report = RunReport.load(finished)
    rows = [
        "popularity", "zero-shot", "fine-tuned", "best uniform merge", "joint", "weight average",
        "task arithmetic", "mergerec", "layer-wise",
    ]  # fmt: skip
    for domain in report.domains:
        assert [row.name for row in domain.rows] == rows
        assert domain.baseline == "best uniform merge"
    whole = table(report, "All domains")
    assert list(whole) == rows
    for row in rows:
        means = [
            next(one for one in domain.rows if one.name == row).metrics["full/recall@10"].mean
            for domain in report.domains
        ]
        assert float(whole[row][0]) == pytest.approx(sum(means) / 3, abs=5e-5)
    assert list(table(report, "Probes")) == ["mergerec", "real sequences"]
    assert list(table(report, "Few probes")) == ["mergerec", "6 a domain, popular"]
    assert list(table(report, "Seeds of the learning")) == [
        "the recipe's seed", "seed 4", "least … most",
    ]  # fmt: skip
    assert list(table(report, "Unseen domains"))[:4] == ["home", "toys", "kitchen", "mean"]
    assert len(table(report, "Learned weights")["mergerec"]) == 5


def test_masked_results_are_of_the_same_users_and_never_worse(finished: Path) -> None:
    """The same scores: leaving items of the history out can only move the target up."""
    for target in ("home", "toys", "kitchen"):
        stage = next(
            one.evaluations[0]
            for one in study(finished).rows()
            if (one.target, one.row) == (target, FEATURED)
        )
        plain, masked = (stage.result(finished, masked=masked) for masked in (False, True))
        assert plain.frame["user_id"].equals(masked.frame["user_id"])
        assert (masked.ranks(True) <= plain.ranks(True)).all()
        assert masked.protocol.mask_history
        assert not plain.protocol.mask_history


def test_the_best_uniform_merge_is_the_best_on_validation(finished: Path) -> None:
    system = study(finished)
    choices = {one.row: system.uniform_weight(one) for one in system.recipe.uniform}
    for choice in choices.values():
        assert choice.best(finished) == max(one.mean for one in choice.tried(finished))
    best = max(choices, key=lambda row: choices[row].best(finished))
    report = RunReport.load(finished)
    assert f"The best uniform merge is {best}." in report.notes
    for domain in report.domains:
        by_name = {row.name: row.metrics for row in domain.rows}
        assert by_name["best uniform merge"] == by_name[best]


def learned_merge(finished: Path) -> MergeCheckpoints:
    stage = study(finished).report.merges[FEATURED][1]
    assert isinstance(stage, MergeCheckpoints)
    return stage


def learning(finished: Path) -> LearnWeights:
    stage = learned_merge(finished).weights
    assert isinstance(stage, LearnWeights)
    return stage


def test_weights_are_learned_with_every_interaction_deleted(finished: Path, tmp_path: Path) -> None:
    """Checkpoints and catalogues are all that the learning gets."""
    stage = learning(finished)
    assert {type(parent) for parent in stage.parents.values()} == {TrainCheckpoint, TakeCatalogue}
    shutil.copytree(finished, tmp_path / "run")
    for one in reached([stage]):
        if isinstance(one, PrepareDomain):
            folder = one.folder(tmp_path / "run") / "domain"
            assert (folder / "interactions.parquet").is_file()
            shutil.rmtree(folder)
    before = stage.record(tmp_path / "run")
    shutil.rmtree(stage.folder(tmp_path / "run"))
    assert [one.key for one in missing([stage], tmp_path / "run")] == [stage.key]
    run_stages([stage], tmp_path / "run", ProcessExecutor(Bounds(1)))
    assert stage.record(tmp_path / "run") == before


def test_nothing_of_the_work_is_left_beside_the_stages(finished: Path) -> None:
    assert not list((finished / "scratch").rglob("*.safetensors"))


def test_a_catalogue_stage_holds_items_alone(finished: Path) -> None:
    parent = learning(finished).catalogues[0]
    files = {path.name for path in parent.folder(finished).iterdir()}
    assert files == {"items.parquet", "stage.json"}


def test_the_learned_recipe_replays_to_the_same_bits(finished: Path, tmp_path: Path) -> None:
    merged = learned_merge(finished).checkpoint(finished)
    manifest = json.loads((merged / "weft.json").read_text())
    weights = learning(finished).weights(finished)
    assert [part["weight"] for part in manifest["merge"]["parts"]] == weights
    outcome = CliRunner().invoke(
        app, ["merge", str(merged / "weft.json"), "-o", str(tmp_path / "m")]
    )
    assert outcome.exit_code == 0, outcome.output
    assert (tmp_path / "m" / WEIGHT_FILE).read_bytes() == (merged / WEIGHT_FILE).read_bytes()


def test_the_universal_recommender_serves_every_domain_and_an_unseen_catalogue(
    finished: Path, tmp_path: Path
) -> None:
    folders = [
        finished / "recommenders" / name / "mergerec" for name in ("home", "toys", "kitchen")
    ]
    assert len({(folder / WEIGHT_FILE).stat().st_ino for folder in folders}) == 1  # one model
    for folder in folders:
        recommender = weft.load_recommender(folder, precision="float32")
        history = list(recommender.catalogue.titles[:2])
        suggestions = recommender.recommend([history], k=3)[0]
        assert len(suggestions) == 3
        assert not {one.title for one in suggestions} & set(history)
    titles = tmp_path / "titles.txt"
    titles.write_text("Red lamp\n\nBlue rug\nOak table\n", "utf-8")
    argv = ["recommend", "--model", str(folders[0]), "--items", str(titles), "-k", "5", "--json"]
    outcome = CliRunner().invoke(app, [*argv, "--history", "Red lamp"])
    assert outcome.exit_code == 0, outcome.output
    items = json.loads(outcome.stdout)["items"]
    assert {one["title"] for one in items} == {"Blue rug", "Oak table"}
    assert {one["item_id"] for one in items} == {"3", "4"}


def test_a_finished_study_is_not_done_again_and_a_lost_stage_comes_back_equal(
    finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    measured = study(finished).report.main[FEATURED].stages[0]
    for one in (learning(finished), learned_merge(finished), measured):
        shutil.rmtree(one.folder(tmp_path / "run"))
    counted: list[int] = []
    again = load_recipe(finished.parent / "tiny.yaml")
    run(again, tmp_path / "run", workers=1, planned=lambda ahead: counted.append(len(ahead.todo)))
    assert counted == [3]
    assert (tmp_path / "run" / "report.json").read_bytes() == (
        finished / "report.json"
    ).read_bytes()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"branches": {"examples": 48}}, r"branches.parameters: a mergerec recipe trains all"),
        ({"uniform": []}, "uniform: at least one merge"),
        ({"uniform": ["linear", "linear"]}, "two rows would be called 'linear'"),
        ({"variants": {"x": {"mask_selfs": True}}}, "variants: x: .*mask_selfs"),
        ({"variants": {"x": {"method": "ties"}}}, "variants: x: .*does not keep the parts apart"),
        ({"domains": ["home", {"name": "toys", "target": False}]}, "every domain .* is a target"),
        ({"domains": ["home", "toys"]}, "unseen: needs three domains"),
        ({"recommender": {"kind": "listwise"}}, "MergeRec merges bi-encoders|full: false"),
    ],
    ids=str,
)
def test_recipes_that_make_no_sense_are_refused(
    backbone: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(WeftError, match=words):
        load_recipe(write_recipe(tmp_path / "r.yaml", values(backbone, **changes)))
