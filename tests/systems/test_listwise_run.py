"""WeaveRec's stages with a language model: rows, AdaMerging, rankers, a recommender to ask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_lm import save_causal

from weft.errors import WeftError
from weft.recommenders.saved import load_recommender
from weft.report.model import RunReport
from weft.settings import validate
from weft.systems.runner import run
from weft.systems.weaverec.recipe import WeaveRecRecipe

SAID: dict[str, Any] = {
    "recommender": {
        "kind": "listwise",
        "listed": False,
        "answer": "top1",
        "text": {"tokens": 12},
        "prompt": {"short": True, "max_tokens": 300},
    },
    "mall": {"users": 60, "items": 60},
    "domains": ["home", {"name": "toys", "target": False}],
    "branches": {"examples": 24, "batch": 4, "accumulate": 2, "lora": {"rank": 2, "alpha": 4}},
    "merge": {"beside": [{"weights": "adamerging"}], "adamerging": {"prompts": 4, "steps": 6}},
    "controls": ["naive"],
    "rankers": [{"normalise": True}, {"ranker": "beam", "beams": 3}, {"kind": "yes_no"}],
    "evaluate": {"candidates": {"drawn": 9}, "full": False, "users": 12, "at": [1, 5]},
    "headline": ["ndcg@1", "ndcg@5"],
    "precision": "float32",
}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_causal("qwen2", tmp_path_factory.mktemp("lm") / "qwen2")


@pytest.fixture(scope="module")
def done(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunReport, Path]:
    out = tmp_path_factory.mktemp("run") / "run"
    report = run(
        validate(WeaveRecRecipe, SAID | {"backbone": str(backbone)}), out, workers=1, device="cpu"
    )
    return report, out


def test_every_row_is_there(done: tuple[RunReport, Path]) -> None:
    report, out = done
    rows = [path.name for path in (out / "results" / "home").iterdir()]
    assert set(rows) == {
        "popularity", "zero-shot", "zero-shot-normalise", "zero-shot-beam-beams-3", "zero-shot-yes_no",
        "target-only", "weaverec", "weaverec-normalise", "weaverec-beam-beams-3", "naive-merge",
        "hybrids-adamerging", "naive-adamerging",
    }  # fmt: skip
    assert len(report.domains) == 1


def test_adamerging_weights_are_numbers_of_each_module(done: tuple[RunReport, Path]) -> None:
    _, out = done
    learned = [
        said
        for path in (out / "stages").glob("*/weights.json")
        if "entropies" in (said := json.loads(path.read_text()))
    ]
    assert len(learned) == 2  # on hybrids, and on pure sources
    for said in learned:
        assert len(said["weights"]) == 3 * 7 and len(said["entropies"]) == 6
        assert all(sum(w) == pytest.approx(1, abs=1e-6) for w in said["weights"].values())


def test_the_woven_recommender_answers(done: tuple[RunReport, Path]) -> None:
    found = load_recommender(done[1] / "recommenders" / "home" / "weaverec")
    first, second = found.recommend([["Oak Coffee Table"], ["Steel Lamp", "Wool Rug"]], k=4)
    assert len(first) == len(second) == 4
    assert first[0].score >= first[-1].score


def test_once_more_does_nothing(done: tuple[RunReport, Path], backbone: Path) -> None:
    told: list[int] = []
    recipe = validate(WeaveRecRecipe, SAID | {"backbone": str(backbone)})
    run(recipe, done[1], workers=1, device="cpu", planned=told.append)
    assert told == []


def test_another_ranker_trains_nothing_anew(done: tuple[RunReport, Path], backbone: Path) -> None:
    said = SAID | {"backbone": str(backbone), "rankers": []}
    said["recommender"] = SAID["recommender"] | {"normalise": True}
    seen: list[str] = []
    run(
        validate(WeaveRecRecipe, said), done[1], workers=1, device="cpu",
        watch=lambda event: seen.append(event.stage.label) if event.kind == "start" else None,
    )  # fmt: skip
    assert seen == [] or all(not label.startswith(("train", "merge")) for label in seen)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"recommender": {"kind": "listwise"}, "evaluate": {"full": True}},
            "given candidates only",
        ),
        ({"rankers": [{"ranker": "best"}]}, "rankers: ranker"),
        ({"recommender": {"kind": "yes_no"}, "rankers": []}, "adamerging needs a listwise"),
        ({"merge": {"method": "ties", "weights": "adamerging"}}, "linear method in delta space"),
        ({"recommender": {"kind": "nothing"}}, "'nothing' is not known"),
        ({"recommender": {"kind": "listwise", "drawn": 1}}, "recommender: drawn"),
    ],
)
def test_what_can_not_work_is_said_at_once(change: dict[str, Any], said: str) -> None:
    with pytest.raises(WeftError, match=said):
        validate(WeaveRecRecipe, SAID | change)
