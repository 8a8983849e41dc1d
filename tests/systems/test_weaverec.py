"""WeaveRec as a graph of stages: what is trained, shared and merged."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner
from world import recipe

import weft
from weft.adapters import load_adapter
from weft.artifacts.atomic import read_json
from weft.cli.main import app
from weft.errors import WeftError
from weft.evaluation.result import Result
from weft.report.model import RunReport
from weft.settings import validate
from weft.stages.graph import missing, reached
from weft.systems.plan import Plan
from weft.systems.registry import plan_stages
from weft.systems.runner import run
from weft.systems.stages.training import TrainBranch, TrainingStage
from weft.systems.weaverec.algorithm import WeaveRec
from weft.systems.weaverec.recipe import WeaveRecRecipe


def plan_of(backbone: Path, **changes: Any) -> Plan:
    return Plan(validate(WeaveRecRecipe, recipe(backbone, **changes)), None, "cpu")


def training(plan: Plan) -> dict[str, TrainBranch]:
    stages = reached(plan_stages(plan)[2])
    return {stage.key: stage for stage in stages if isinstance(stage, TrainBranch)}


def test_a_hybrid_is_trained_once_for_both_directions(backbone: Path) -> None:
    weave = WeaveRec.of(plan_of(backbone))
    assert weave.hybrid_branch("home", "toys").key == weave.hybrid_branch("toys", "home").key


def test_all_branches_start_from_the_same_lora_and_examples(backbone: Path) -> None:
    branches = training(plan_of(backbone)).values()
    assert len({(s.init_seed, s.data_seed) for s in branches}) == 1
    assert len({s.seed for s in branches if "×" not in s.label}) > 3


def test_the_branches_are_those_of_the_paper_and_its_controls(backbone: Path) -> None:
    kinds = ["+".join(stage.domain_names) for stage in training(plan_of(backbone)).values()]
    # Each target: itself, two twins for the soup, one with a hybrid's steps.
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "home": 4,
        "toys": 4,
        "kitchen": 4,
        "home+toys": 1,
        "home+kitchen": 1,
        "toys+kitchen": 1,
        "home+toys+kitchen": 1,
    }


def test_adding_a_source_trains_its_hybrid_and_removing_one_trains_nothing(backbone: Path) -> None:
    few: dict[str, Any] = {"controls": []}
    one_target = [{"name": "home"}, {"name": "toys", "target": False}]
    third = {"name": "kitchen", "target": False}
    before = training(plan_of(backbone, domains=one_target, **few))
    after = training(plan_of(backbone, domains=[*one_target, third], **few))
    assert set(before) < set(after)
    assert [after[key].domain_names for key in set(after) - set(before)] == [["home", "kitchen"]]
    smaller = training(plan_of(backbone, domains=[one_target[0], third], **few))
    assert set(smaller) < set(after)


def test_a_run_reports_every_row_with_floors(finished: tuple[Path, RunReport]) -> None:
    _, report = finished
    assert [domain.domain for domain in report.domains] == ["home", "toys", "kitchen"]
    rows = [row.name for row in report.domains[0].rows]
    assert rows == [
        "popularity",
        "zero-shot",
        "target-only",
        "weaverec",
        "soup",
        "target-only, longer",
        "all-data",
        "naive merge",
        "weaverec (factors)",
        "source: toys",
        "source: kitchen",
    ]
    home = report.domains[0].row("weaverec")
    assert home is not None and set(home.versus) >= {"ndcg@1", "ndcg@5"}
    assert len(report.users) == 2 and set(report.users[0].suggestions) == {
        "target-only",
        "weaverec",
    }


def test_the_woven_adapter_is_the_mean_of_its_parents_deltas(
    finished: tuple[Path, RunReport], backbone: Path
) -> None:
    folder, _ = finished
    weave = WeaveRec.of(plan_of(backbone))
    parts = [
        weave.target_branch("toys"),
        weave.hybrid_branch("toys", "home"),
        weave.hybrid_branch("toys", "kitchen"),
    ]
    adapters = [load_adapter(part.folder(folder) / "adapter") for part in parts]
    woven = load_adapter(folder / "recommenders" / "toys" / "weaverec")
    assert woven.manifest["parents"] == [part.weights_hash for part in adapters]
    for module, factors in woven.factors.items():
        mean = sum(part.factors[module].delta() for part in adapters) / 3
        torch.testing.assert_close(factors.delta(), mean)


def test_longer_training_takes_as_many_steps_as_a_hybrid(
    finished: tuple[Path, RunReport], backbone: Path
) -> None:
    folder, _ = finished
    weave = WeaveRec.of(plan_of(backbone))
    hybrid = weave.hybrid_branch("home", "toys").folder(folder)
    longer = weave.target_branch("home", longer=2).folder(folder)
    steps = [read_json(one / "adapter" / "weft.json")["steps"] for one in (hybrid, longer)]
    assert steps[0] == steps[1] == 12


def test_the_same_run_again_does_nothing(
    finished: tuple[Path, RunReport], backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, report = finished
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a finished run must not start workers")

    monkeypatch.setattr("weft.systems.runner.run_stages", refuse)
    again = run(validate(WeaveRecRecipe, recipe(backbone)), folder, workers=2)
    assert again == report
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_a_new_domain_costs_only_its_own_branches(
    finished: tuple[Path, RunReport], backbone: Path
) -> None:
    folder, _ = finished
    plan = plan_of(backbone, domains=["home", "toys", "kitchen", "outdoor"], controls=["sources"])
    todo = [s for s in missing(plan_stages(plan)[2], folder) if isinstance(s, TrainingStage)]
    assert all("outdoor" in stage.domain_names for stage in todo) and len(todo) == 4


def test_results_are_per_user_ranks_with_their_protocol(
    finished: tuple[Path, RunReport], backbone: Path
) -> None:
    folder, report = finished
    result = Result.load(folder / "results" / "toys" / "source-home")
    row = report.domains[1].row("source: home")
    assert row is not None
    assert row.metrics["ndcg@5"].mean == pytest.approx(float(np.mean(result.values("ndcg@5"))))
    assert result.protocol.domain == "toys" and result.protocol.candidates is not None


def test_recommend_in_three_lines_for_a_history_never_seen(
    finished: tuple[Path, RunReport],
) -> None:
    folder, _ = finished
    recommender = weft.load_recommender(folder / "recommenders" / "toys" / "weaverec")
    titles = recommender.catalogue.titles
    answers = recommender.recommend([[titles[0], titles[1]], ["never heard of this"]], k=5)
    assert [len(answer) for answer in answers] == [5, 5]
    assert not {one.title for one in answers[0]} & {titles[0], titles[1]}
    again = recommender.recommend([[titles[0], titles[1]]], k=5)
    assert [one.item_id for one in again[0]] == [one.item_id for one in answers[0]]
    by_id = recommender.recommend([recommender.catalogue.item_ids[:2]], k=5)
    assert [one.item_id for one in by_id[0]] == [one.item_id for one in answers[0]]


@pytest.mark.parametrize("row", ["popularity", "zero-shot", "weaverec"])
def test_a_published_row_is_what_was_measured(
    finished: tuple[Path, RunReport], tmp_path: Path, row: str
) -> None:
    """The floors too: opened again, each gives the very ranks of the report."""
    folder, _ = finished
    argv = ["evaluate", "--model", str(folder / "recommenders" / "toys" / row), "--out",
            str(tmp_path / "again"), "--drawn", "9", "--no-full"]  # fmt: skip
    (domain,) = (
        path.parent
        for path in folder.glob("stages/PrepareDomain-*/domain/domain.json")
        if read_json(path)["name"] == "toys"
    )
    done = CliRunner().invoke(app, [*argv, "--domain", str(domain)])
    assert done.exit_code == 0, done.output
    again, measured = (
        Result.load(path) for path in (tmp_path / "again", folder / "results" / "toys" / row)
    )
    assert again.protocol.candidates_hash == measured.protocol.candidates_hash
    values = [one.values("ndcg@5") for one in (again, measured)]
    assert np.array_equal(*values)
    empty = weft.load_recommender(folder / "recommenders" / "toys" / row).ask([[]], k=3)[0]
    assert empty.basis == "popularity" and len(empty.suggestions) == 3


def test_asking_a_target_takes_the_row_that_the_run_recommends(
    finished: tuple[Path, RunReport],
) -> None:
    target = finished[0] / "recommenders" / "toys"
    recommended = read_json(target / "recommendation.json")
    if recommended["folder"] is None:
        pytest.skip("this run recommends no row")
    by_target, by_row = (
        weft.load_recommender(path).recommend([["never heard of this"]], k=3)
        for path in (target, target / recommended["folder"])
    )
    assert by_target == by_row and len(by_row[0]) == 3


def test_lambda_can_be_chosen_on_validation_users(backbone: Path, tmp_path: Path) -> None:
    values = recipe(
        backbone,
        domains=[{"name": "home"}, {"name": "toys", "target": False}],
        merge={"weights": "validation", "validation_users": 20},
        controls=[],
    )
    run(validate(WeaveRecRecipe, values), tmp_path, workers=1)
    manifest = read_json(tmp_path / "recommenders" / "home" / "weaverec" / "weft.json")
    (chosen,) = (tmp_path / "stages").glob("TuneAdapters-*/weights.json")
    tried = read_json(chosen)
    assert manifest["merge"]["weights"] == tried["weights"]
    best = max(one["ndcg@5"] for one in tried["tried"])
    assert {"weights": tried["weights"], "ndcg@5": best} in tried["tried"]


def test_more_seeds_give_a_spread(backbone: Path, tmp_path: Path) -> None:
    values = recipe(
        backbone,
        domains=[{"name": "home", "seeds": [4, 5]}, {"name": "toys", "target": False}],
        controls=["soup"],
    )
    report = run(validate(WeaveRecRecipe, values), tmp_path, workers=2)
    row = report.domains[0].row("weaverec")
    assert row is not None and row.seeds["ndcg@5"].seeds == 3


def test_a_changed_tokenizer_is_another_backbone(backbone: Path, tmp_path: Path) -> None:
    before = WeaveRec.of(plan_of(backbone)).target_branch("home").key
    other = tmp_path / "other"
    shutil.copytree(backbone, other)
    assert WeaveRec.of(plan_of(backbone)).target_branch("home").key == before
    file = other / "tokenizer.json"
    file.write_text(file.read_text().replace('"lowercase"', '"lowercase" '))
    changed = Plan(validate(WeaveRecRecipe, recipe(other)), None, "cpu").scoring.files
    assert changed != plan_of(backbone).scoring.files


def test_other_peoples_files_are_left_alone(
    finished: tuple[Path, RunReport], backbone: Path, tmp_path: Path
) -> None:
    (tmp_path / "results" / "2024").mkdir(parents=True)
    with pytest.raises(WeftError, match="holds other files and no run"):
        run(validate(WeaveRecRecipe, recipe(backbone)), tmp_path)
    folder, _ = finished
    mine = folder / "results" / "home" / "mine"
    mine.mkdir()
    (folder / "run.json").unlink()
    run(validate(WeaveRecRecipe, recipe(backbone)), folder, workers=1)
    assert mine.is_dir()


def test_a_soup_of_longer_twins_shares_the_longer_branch(backbone: Path) -> None:
    plan = plan_of(backbone, controls=["matched", "soup_longer"])
    kinds = [("+".join(s.domain_names), s.train.epochs) for s in training(plan).values()]
    assert kinds.count(("home", 4)) == 2 and kinds.count(("home", 2)) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"headline": ["ndgc@1"]}, "headline"),
        ({"headline": ["ndcg@2"]}, "needs 2 in evaluate.at"),
        ({"evaluate": {"full": False, "at": [1, 5, 10]}}, "needs evaluate.full"),
        ({"evaluate": {"split": "by_month"}}, "leave_one_out, by_user and global_time are"),
        ({"branches": {"patience": 1}}, "need branches.validation"),
        ({"domains": [{"name": "home", "seeds": [3]}, "toys"]}, "seeds must differ"),
        ({"domains": ["../home", "toys"]}, "domains.0.name"),
    ],
)
def test_what_cannot_end_well_is_refused_before_it_starts(
    backbone: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(WeftError, match=words):
        validate(WeaveRecRecipe, recipe(backbone, **changes))
