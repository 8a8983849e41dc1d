"""A whole X-Cross study of a mall, small enough for seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from world import write_recipe

import weft
from weft.errors import WeftError
from weft.report.model import RunReport
from weft.systems.plan import Plan
from weft.systems.registry import load_recipe, system_of
from weft.systems.runner import run
from weft.systems.x_cross.little_data import least_squares
from weft.systems.x_cross.recipe import XCrossRecipe


def values(backbone: Path, **changes: Any) -> dict[str, Any]:
    recipe: dict[str, Any] = {
        "system": "x_cross",
        "name": "tiny",
        "backbone": str(backbone),
        "precision": "float32",
        "mall": {"seed": 0, "users": 60, "items": 40},
        "recommender": {
            "kind": "cross_encoder",
            "text": {"words": 3, "tokens": 8},
            "prompt": {"max_tokens": 60, "history_items": 4},
            "drawn": 3,
        },
        "domains": ["home", "toys", {"name": "kitchen", "target": False}],
        "branches": {
            "examples": 16,
            "batch": 4,
            "lora": {"rank": 2, "alpha": 4, "targets": "query-value"},
            "log_every": 1,
        },
        "sources": {"count": 2, "holdout": 8},
        "target": {"examples": 8, "epochs": 2, "batch": 4, "learning_rate": 0.01},
        "x_cross": {"layers": 2},
        "variants": {"-layers": {"beta": 0, "gamma": 0}, "top 1": {"layers": 1}},
        "variants_on": ["home"],
        "limited": {"examples": [4, 8], "subsets": 2, "epochs": 1},
        "evaluate": {
            "split": "by_user",
            "candidates": {"drawn": 9, "by": "popularity"},
            "full": False,
            "at": [1, 3, 10],
        },
        "headline": ["hit@1", "mrr@10"],
        "seed": 3,
    }
    return recipe | changes


@pytest.fixture(scope="module")
def finished(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("x-cross")
    recipe = load_recipe(write_recipe(folder / "tiny.yaml", values(backbone)))
    run(recipe, folder / "run", workers=1)
    return folder / "run"


def lines_of(report: RunReport, title: str) -> dict[str, list[str]]:
    table = next(one for one in report.tables if one.title.startswith(title))
    return {row[0]: row[1:] for row in table.rows}


def test_every_rival_has_a_row_beside_what_it_cost(finished: Path) -> None:
    report = RunReport.load(finished)
    rows = {domain.domain: [row.name for row in domain.rows] for domain in report.domains}
    shared = [
        "popularity", "best source", "source: toys", "source: kitchen", "target, as a source",
        "lora", "x-cross", "x-lora", "x-lora, one pass", "meteora", "pooler + scorer", "merge",
    ]  # fmt: skip
    assert rows["home"] == [*shared, "x-cross, -layers", "x-cross, top 1"]
    assert rows["toys"] == [name.replace("toys", "home") for name in shared]
    costs = lines_of(report, "What each row costs on home")
    # 2 blocks of W_cat [4, 64] and w [2]; query and value of 2 blocks, rank 2; a gate of 32 x 2 + 2
    assert costs["x-cross"][0] == "514" and costs["lora"][0] == f"{2 * 2 * 2 * 64:,}"
    assert costs["x-cross"][1] == "100.4%"
    assert costs["x-lora"][0] == f"{33 * 4}" and costs["x-lora, one pass"][0] == f"{33 * 2}"
    assert costs["meteora"][0] == f"{2 * 33 * 2}"
    assert costs["pooler + scorer"][0] == "0" and costs["pooler + scorer"][2] == "1,089"
    assert costs["merge"][0] == "0" and costs["source: toys"][3] == "0"


def test_sources_are_chosen_on_the_holdout_and_the_matrix_is_printed(finished: Path) -> None:
    report = RunReport.load(finished)
    matrix = lines_of(report, "Sources on the targets")
    assert set(matrix) == {"toys", "kitchen", "home"}
    assert "✓" not in matrix["home"][0] and "✓" in matrix["kitchen"][0]
    for place, _ in enumerate(("home", "toys")):
        cells = [row[place] for name, row in matrix.items() if name != ("home", "toys")[place]]
        chosen = sorted(cells, key=lambda cell: -float(cell.split(" / ")[1].split(" ✓")[0]))
        assert [cell[-2:] for cell in chosen] == ["✓1", "✓2"]
        best = report.domains[place].row("best source")
        name = next(n for n, row in matrix.items() if row[place].endswith("✓1"))
        named = report.domains[place].row(f"source: {name}")
        assert best is not None and named is not None and best.metrics == named.metrics


def test_little_data_is_a_table(finished: Path) -> None:
    report = RunReport.load(finished)
    for target in ("home", "toys"):
        assert list(lines_of(report, f"Little data: {target}")) == ["4", "8"]
    assert not any(one.title.startswith("Prompt length") for one in report.tables)  # two domains
    text = (finished / "report.md").read_text("utf-8")
    assert "## Little data: home" in text and "What each row costs on toys" in text
    assert "Little data: home" in (finished / "report.html").read_text("utf-8")


def test_prompt_lengths_are_regressed_over_four_domains(backbone: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "domains": ["home", "outdoor", "toys", "kitchen"],
        "rivals": [],
        "merges": [],
        "variants": {},
        "variants_on": None,
        "limited": {"examples": [4], "subsets": 1, "users": 6},
    }
    recipe = load_recipe(write_recipe(tmp_path / "four.yaml", values(backbone, **changes)))
    report = run(recipe, tmp_path / "run", workers=1)
    lengths = next(one for one in report.tables if one.title.startswith("Prompt length"))
    assert [row[0] for row in lengths.rows] == ["mean length", "standard deviation"]
    assert "4 trainings (4 targets × 1 subsets of 4)" in lengths.about
    assert "R² is high by construction" in lengths.about
    assert "on the 6 test users" in next(t.about for t in report.tables if "Little" in t.title)


def test_a_published_integrator_recommends_and_the_run_leaves_no_activations(
    finished: Path, tmp_path: Path
) -> None:
    assert not (finished / "scratch" / "activations").exists()
    folder = finished / "recommenders" / "home" / "x-cross"
    manifest = json.loads((folder / "integrator.json").read_text("utf-8"))
    assert [one["hash"] for one in manifest["adapters"]] == sorted(
        [path.name for path in (folder / "adapters").iterdir()],
        key=[one["hash"] for one in manifest["adapters"]].index,
    )
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    try:
        recommender = weft.load_recommender(moved, precision="float32")
        suggested = recommender.recommend([["blue mug"], ["red table", "green chair"]], k=3)
        assert [len(one) for one in suggested] == [3, 3]
    finally:
        moved.rename(folder)


def test_the_same_recipe_again_does_nothing(backbone: Path, finished: Path) -> None:
    recipe = load_recipe(write_recipe(finished.parent / "tiny.yaml", values(backbone)))
    before = (finished / "report.json").read_bytes()
    planned: list[object] = []
    run(recipe, finished, workers=1, planned=planned.append)
    assert not planned and (finished / "report.json").read_bytes() == before


def test_a_target_among_its_sources_is_said_aloud(backbone: Path, tmp_path: Path) -> None:
    changes = {"sources": {"count": 2, "holdout": 4, "among": ["home", "toys"]}, "limited": None,
               "variants": {}, "rivals": [], "target": {
                   "examples": 8, "batch": 4, "epochs": 2, "validation": {"users": 4},
                   "validate_every": 2, "keep": "best"}, "domains": [
                   "home", {"name": "toys", "target": False}]}  # fmt: skip
    recipe = load_recipe(write_recipe(tmp_path / "own.yaml", values(backbone, **changes)
                                      | {"variants_on": None}))  # fmt: skip
    report = run(recipe, tmp_path / "run", workers=1)
    curve = report.learning_curves["integrate for home: x-cross"]
    assert [value is not None for _, _, value in curve].count(True) == 2
    assert any("home is among its own sources" in note for note in report.notes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sources": {"count": 1}}, "two or more sources"),
        ({"sources": {"count": 3}}, "adapters of 2 domains to choose from"),
        ({"sources": {"among": ["shoes"]}}, "sources.among: 'shoes' is not one of"),
        ({"recommender": {"kind": "bi_encoder"}}, "set kind: cross_encoder"),
        ({"variants": {"odd": {"delta": 1}}}, "variants: odd: delta"),
        ({"rivals": ["y_cross"]}, "'y_cross' is no integrator"),
        ({"limited": {"examples": [0]}}, "sizes must be at least 1"),
        ({"merges": [{"weights": "validation"}]}, "nothing is tuned on the target"),
        ({"merges": ["ties"]}, "works on differences from a base"),
        ({"merges": [{"weights": [0.5, 0.6]}]}, "2 numbers that sum to 1"),
        ({"rivals": ["x_cross"]}, "no rival of itself"),
        ({"show_users": 2}, "no show_users"),
        ({"evaluate": {"full": True}}, "set full: false"),
        ({"evaluate": {"full": False, "at": [1]}, "headline": ["hit@1"]}, "mrr@10"),
        ({"domains": [{"name": "home", "seeds": [4]}, "toys", "kitchen"]}, "weaverec recipes"),
        ({"target": {"keep": "best"}}, "need target.validation"),
        ({"target": {"gradient_checkpointing": True}}, "without gradient_checkpointing"),
        ({"merge": {}}, "merge"),
    ],
)
def test_what_cannot_end_well_is_refused_before_it_starts(
    backbone: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    file = write_recipe(tmp_path / "bad.yaml", values(backbone, **changes))
    with pytest.raises(WeftError, match=words) as error:
        load_recipe(file)
    assert str(file) in str(error.value)


def test_more_integrated_blocks_than_there_are_is_one_sentence(
    backbone: Path, tmp_path: Path
) -> None:
    changed = values(backbone, x_cross={"layers": 3}, limited=None, rivals=[], variants={})
    recipe = load_recipe(write_recipe(tmp_path / "deep.yaml", changed))
    with pytest.raises(WeftError, match="x_cross: layers is 3, and the backbone has 2 blocks"):
        run(recipe, tmp_path / "run", workers=1)
    assert not (tmp_path / "run" / "stages").exists()  # before anything was trained


def test_two_rows_of_one_name_are_an_error(backbone: Path, tmp_path: Path) -> None:
    rivals = [{"kind": "meteora", "top_k": 1}, "meteora"]
    file = write_recipe(tmp_path / "twice.yaml", values(backbone, rivals=rivals))
    with pytest.raises(WeftError, match="two rows of 'home' would be called 'meteora'"):
        load_recipe(file)


def test_a_source_that_learned_nothing_is_said(backbone: Path, tmp_path: Path) -> None:
    changed = values(backbone, limited=None, rivals=[], merges=[], variants={}, variants_on=None)
    changed["branches"] = changed["branches"] | {"learning_rate": 1e-9, "batch": 1, "epochs": 12}
    recipe = load_recipe(write_recipe(tmp_path / "dead.yaml", changed))
    report = run(recipe, tmp_path / "run", workers=1)
    rows = {row.name: row.warnings for row in report.domains[0].rows}
    dead = {name for name, warnings in rows.items() if any("collapsed" in w.text for w in warnings)}
    assert {"x-cross", "best source"} < dead and "popularity" not in dead
    assert any("that of guessing among 4 candidates" in w.text for w in rows["x-cross"])
    serving = report.domains[0].serving
    assert serving is not None and serving.row == "popularity"
    assert set(serving.left_out) < dead


def test_evaluate_splits_as_the_training_did(finished: Path, tmp_path: Path) -> None:
    for row in ("x-cross", "lora"):
        folder = finished / "recommenders" / "home" / row
        split = weft.load_recommender(folder, precision="float32").split
        assert split == {"kind": "by_user", "ratios": [3, 1, 1], "targets": "last", "seed": 0}


def test_rows_share_what_they_rest_on(backbone: Path, tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path / "tiny.yaml", values(backbone)))
    assert isinstance(recipe, XCrossRecipe)
    rows = system_of(Plan(recipe, None, "cpu")).rows()
    trained = {
        stage.key: stage.label
        for one in rows
        for stage in [one.evaluations[0], *one.evaluations[0].parents.values()]
        if stage.label.startswith("train") and " on " not in stage.label
    }
    assert sorted(trained.values()) == [f"train {d}, seed 3" for d in ("home", "kitchen", "toys")]


def test_least_squares_finds_a_line() -> None:
    x = np.array([[1.0, 2.0], [2.0, 1.0], [3.0, 5.0], [4.0, 0.0]])
    beta, fit = least_squares(x, 7 + x @ np.array([-0.65, 1.6]))
    np.testing.assert_allclose(beta, [7, -0.65, 1.6])
    assert abs(fit - 1) < 1e-12
