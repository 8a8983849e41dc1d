"""A recipe is planned whole when it is read: rows of one name, and merges that could not be made of
what it trains, are refused there; whatever is accepted can be merged."""

from __future__ import annotations

import itertools
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner
from world import do, recipe, write_recipe

from weft.adapters import load_adapter
from weft.cli.main import app
from weft.errors import WeftError
from weft.merging import merge_adapters
from weft.merging.methods import METHODS
from weft.settings import validate
from weft.stages.graph import reached
from weft.systems.plan import Plan, Sketch
from weft.systems.recipe import StudyRecipe
from weft.systems.registry import check_recipe, load_recipe, plan_stages, system_class
from weft.systems.stages.base import DomainSizes, Work, work_of
from weft.systems.stages.merging import MergeCheckpoints, MergeWeightsStage
from weft.systems.weaverec.algorithm import WeaveRec
from weft.systems.weaverec.recipe import WeaveRecRecipe

PAIR = [{"name": "home"}, {"name": "toys", "target": False}]
CROSS = {
    "kind": "cross_encoder",
    "text": {"words": 3, "tokens": 8},
    "prompt": {"max_tokens": 60, "history_items": 4},
    "drawn": 3,
}
CANDIDATES = {
    "evaluate": {"candidates": {"drawn": 9}, "full": False, "at": [1, 5, 10]},
    "headline": ["ndcg@1", "ndcg@5"],
    "show_users": 0,
}
EVERY_CONTROL = (
    "matched", "sources", "naive", "all_data", "soup", "soup_longer", "factors", "hybrids", "pairs",
)  # fmt: skip
WEIGHTINGS = [[0.9, 0.1], [0.7, 0.3], [0.5, 0.5], [0.3, 0.7], [0.1, 0.9]]


def values(backbone: Path, **changes: Any) -> dict[str, Any]:
    """A pair of domains, with changes of single fields of `branches`, `merge` and the rest."""
    system = changes.get("system", "weaverec")
    said = recipe(backbone, domains=PAIR, precision="float32", show_users=0, system=system)
    if system == "weaverec":
        said["controls"] = ["naive"]
    said["branches"] |= {"epochs": 1} | changes.pop("branches", {})
    return said | changes


def read(said: dict[str, Any], tmp_path: Path) -> StudyRecipe:
    return load_recipe(write_recipe(tmp_path / "study.yaml", said))


def rows(study: StudyRecipe, target: str = "home") -> list[str]:
    return [one.row for one in plan_stages(Sketch(study))[1] if one.target == target]


# --- names


def test_five_weightings_of_one_method_are_five_rows(backbone: Path, tmp_path: Path) -> None:
    beside = [{"method": "linear", "weights": weights} for weights in WEIGHTINGS]
    study = read(values(backbone, merge={"beside": beside}), tmp_path)
    found = rows(study)
    for weights in ("0.9 0.1", "0.7 0.3", "0.5 0.5", "0.3 0.7", "0.1 0.9"):
        assert f"hybrids, linear (weights {weights})" in found
        assert f"naive, linear (weights {weights})" in found


@pytest.mark.parametrize(
    ("one", "other", "names"),
    [
        ({"weights": "validation"}, {}, ["linear (weights by validation)", "linear"]),
        ({"rank": 2}, {"rank": 3}, ["linear (rank 2)", "linear (rank 3)"]),
        ({"space": "factors"}, {}, ["linear (factors space)", "linear"]),
        (
            {"method": {"name": "ties", "density": 0.2}},
            {"method": {"name": "ties", "density": 0.3}},
            ["ties (density 0.2)", "ties (density 0.3)"],
        ),
        (
            {"method": {"name": "dare", "then": {"name": "ties", "density": 0.2}}},
            {"method": {"name": "dare", "then": {"name": "ties", "density": 0.3}}},
            ["dare + ties (ties density 0.2)", "dare + ties (ties density 0.3)"],
        ),
    ],
)
def test_a_row_is_named_by_what_tells_it_apart(
    backbone: Path, one: dict[str, Any], other: dict[str, Any], names: list[str]
) -> None:
    study = validate(WeaveRecRecipe, values(backbone, merge={"beside": [one, other]}))
    assert [name for name in rows(study) if name.startswith("hybrids")] == [
        f"hybrids, {name}" for name in names
    ]


MERGEREC = {
    "system": "mergerec",
    "branches": {"parameters": "all", "batch": 16},
    "domains": ["home", "toys"],
    "evaluate": {"candidates": None, "at": [1, 5, 10]},
    "headline": ["full/recall@10"],
}
X_CROSS = {
    "system": "x_cross",
    "recommender": CROSS,
    "domains": ["home", "toys", "kitchen"],
    "branches": {"batch": 16},
    "evaluate": {"split": "by_user", "full": False, "at": [1, 3, 10]},
    "headline": ["hit@1"],
    "show_users": 0,
}
COLLISIONS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"merge": {"beside": ["ties", "ties"]}}, "'hybrids, ties'"),
    ({}, {"merge": {"beside": ["ties", {"method": {"name": "ties"}}]}}, "'hybrids, ties'"),
    (
        {},
        {"merge": {"beside": [{"weights": [0.5, 0.5]}, {"weights": [0.5, 0.5]}]}},
        "'hybrids, linear (weights 0.5 0.5)'",
    ),
    ({}, {"rankers": [{"history_items": 2}] * 2}, "'zero-shot (history_items 2)'"),
    ({}, {"rankers": [{}]}, "each names what it changes"),
    (
        {},
        {"mall": None, "domains": [{"name": "Home"}, {"name": "home"}]},
        "'Home' and 'home' would share the folder",
    ),
    (
        {},
        {
            "mall": None,
            "domains": [{"name": "films"}, *({"name": n, "target": False} for n in ("A", "a"))],
            "controls": ["sources"],
        },
        "'source: A' and 'source: a' of 'films' would share the folder",
    ),
    (MERGEREC, {"variants": {"joint": {"steps": 3}}}, "'joint'"),
    (MERGEREC, {"variants": {"a b": {"steps": 3}, "A-b": {"steps": 4}}}, "'A-b' and 'a b'"),
    (MERGEREC, {"variants": {"..": {"steps": 3}}}, "no letter or digit"),
    (MERGEREC, {"variants": {"a\nb": {"steps": 3}}}, "the name of a row of"),
    (
        {},
        {"baselines": [{"recommender": {"kind": "popularity"}, "title": "a\nb"}]},
        r"'a\nb' has line breaks",
    ),
    (MERGEREC, {"variants": {"+++": {"steps": 3}}}, "no letter or digit"),
    (MERGEREC, {"variants": {"x" * 300: {"steps": 3}}}, "a name too long for a folder"),
    (MERGEREC, {"uniform": ["ties", {"method": {"name": "ties", "density": 0.3}}]}, "'ties'"),
    (MERGEREC, {"seeds": [3]}, "seeds must differ, also from seed"),
    (
        MERGEREC,
        {"studies": {"Few probes": {"a": {"steps": 3}}}, "scarce": {"per_domain": [5]}},
        "'Few probes' is the table of `scarce`",
    ),
    (MERGEREC, {"scarce": {"per_domain": [5, 5]}}, "scarce.per_domain: two are the same"),
    (X_CROSS, {"merges": ["linear", "linear"]}, "'merge'"),
    (X_CROSS, {"rivals": ["x_lora", "x_lora"]}, "'x-lora'"),
    (
        X_CROSS,
        {"variants": {"top 1": {"layers": 1}, "Top-1": {"layers": 2}}},
        "'x-cross, Top-1' and",
    ),
]


@pytest.mark.parametrize(("system", "changes", "words"), COLLISIONS)
def test_two_rows_of_one_name_or_folder_are_refused(
    backbone: Path, tmp_path: Path, system: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(WeftError, match=r"study\.yaml: ") as error:
        read(values(backbone, **system) | changes, tmp_path)
    assert words in str(error.value)


def test_two_linear_merges_of_x_cross_are_two_rows(backbone: Path) -> None:
    merges = [{"weights": [0.7, 0.3]}, "linear"]
    study = read_study(values(backbone, **X_CROSS) | {"merges": merges})
    assert {"merge", "merge, linear (weights 0.7 0.3)"} <= set(rows(study))


def read_study(said: dict[str, Any]) -> StudyRecipe:
    study = validate(system_class(said["system"]).recipe_class, said)
    check_recipe(study)
    return study


# --- merges


def accepted(said: dict[str, Any]) -> WeaveRecRecipe | None:
    """The recipe, or none where it is refused when it is read."""
    try:
        study = validate(WeaveRecRecipe, said)
        check_recipe(study)
    except WeftError:
        return None
    return study


METHODS_TRIED: list[Any] = [*METHODS, {"name": "linear", "normalize": True},
                            {"name": "dare", "then": "linear"}, {"name": "knots", "then": "linear"},
                            {"name": "task_arithmetic", "scale": 0.5}]  # fmt: skip


@pytest.mark.parametrize(
    ("recommender", "parameters"),
    [("bi_encoder", "lora"), ("bi_encoder", "all"), ("cross_encoder", "lora")],
)
def test_whatever_is_accepted_can_be_merged_and_nothing_else_is_refused(
    backbone: Path, tmp_path: Path, recommender: str, parameters: str
) -> None:
    """Methods × spaces × ranks × weights, on branches that were trained."""
    more = {} if recommender == "bi_encoder" else CANDIDATES | {"recommender": CROSS}
    said = values(backbone, branches={"parameters": parameters, "examples": 16}) | more
    ran, refused = 0, 0
    staged: list[Any] = []  # methods that have gone through a stage; the stages are alike
    for method, (space, rank), weights in itertools.product(
        METHODS_TRIED,
        [("delta", None), ("delta", 1), ("factors", None)],
        ["uniform", [1.0, 1.0], [0.5, -0.5]],
    ):
        merge = {"method": method, "space": space, "weights": weights} | (
            {} if rank is None else {"rank": rank}
        )
        study = accepted(said | {"merge": merge, "controls": []})
        ran, refused = ran + (study is not None), refused + (study is None)
        if study is not None and (parameters == "all" or method not in staged):
            staged.append(method)
            do([WeaveRec.of(Plan(study, None, "cpu")).weave("home")], tmp_path)
        elif parameters == "lora":
            folders = sorted((tmp_path / "stages").glob("TrainBranch-*"))
            parts = [load_adapter(folder / "adapter") for folder in folders]
            numbers = [0.5, 0.5] if weights == "uniform" else weights
            with nullcontext() if study is not None else pytest.raises(WeftError):
                merge_adapters(parts, method, numbers, space=space, rank=rank)
    assert ran + refused == len(METHODS_TRIED) * 9 and ran >= 20 and refused >= 9
    assert len(list((tmp_path / "stages").glob("Train*"))) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"branches": {"parameters": "all"}, "controls": ["factors"]}, "controls: factors"),
        (
            {"branches": {"parameters": "all"}, "merge": {"method": "lego"}},
            "method 'lego' is for adapters",
        ),
        ({"branches": {"parameters": "all"}, "merge": {"rank": 4}}, "rank is for adapters"),
        (
            {"branches": {"parameters": "all"}, "recommender": CROSS, **CANDIDATES},
            "all parameters can be trained of a bi_encoder, not of a cross_encoder",
        ),
        ({"merge": {"method": "lego", "space": "factors"}}, "it needs space: delta"),
        (
            {"recommender": CROSS, **CANDIDATES, "merge": {"method": "ties"}},
            "works on differences from a base",
        ),
        ({"merge": {"weights": [1.0]}}, "2 weights are needed, not 1"),
        ({"merge": {"method": "slerp", "weights": [1.0, -1.0]}}, "weights that sum to 0"),
        ({"branches": {"validate_every": 5}}, "validate_every needs branches.validation"),
        ({"domains": ["home", "toys", "books"]}, "the mall has no domain 'books'"),
        (
            {
                "evaluate": {"split": {"kind": "by_user", "ratios": [4, 0, 1]}, "at": [1, 5, 10]},
                "merge": {"weights": "validation"},
            },
            "no validation users, for merge.weights: validation",
        ),
        (
            X_CROSS | {"branches": {"parameters": "all"}},
            "X-Cross integrates adapters: say lora",
        ),
        (
            MERGEREC | {"studies": {"Probes": {"real": {"sequence": True}}}},
            "studies: Probes: real: sequence: not known",
        ),
        (MERGEREC | {"uniform": ["lego"]}, "method 'lego' is for adapters"),
        (
            MERGEREC | {"domains": ["home", "toys", "kitchen"], "uniform": ["slerp"]},
            "method 'slerp' merges 2 parts, not 3",
        ),
        (MERGEREC | {"joint": {"validate_every": 5}}, "validate_every needs joint.validation"),
    ],
)
def test_what_could_not_end_well_is_refused_when_it_is_read(
    backbone: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    said = values(backbone, **changes)
    with pytest.raises(WeftError) as error:
        read(said, tmp_path)
    assert words in str(error.value) and "study.yaml" in str(error.value)
    out = tmp_path / "run"
    done = CliRunner().invoke(app, ["run", str(tmp_path / "study.yaml"), "--out", str(out)])
    assert str(done.exception) == str(error.value) and not out.exists()


def test_every_stage_has_a_label_of_its_own(backbone: Path) -> None:
    """Times and learning curves are reported by label."""
    plans = 0
    for recommender, parameters, controls, weights in itertools.product(
        ["bi_encoder", "cross_encoder", "listwise", "yes_no"],
        ["lora", "all"],
        [EVERY_CONTROL, tuple(c for c in EVERY_CONTROL if c != "factors")],
        ["uniform", "validation", "adamerging", "collaborative", [0.5, 0.3, 0.2]],
    ):
        said = recipe(
            backbone,
            recommender={"kind": recommender},
            controls=list(controls if isinstance(weights, str) else set(controls) - {"pairs"}),
            merge={"weights": weights, "beside": ["ties", {"weights": "validation"}]},
        )
        said["branches"]["parameters"] = parameters
        if recommender != "bi_encoder":
            said |= CANDIDATES
        if recommender == "cross_encoder":
            said["merge"]["beside"] = ["lego", {"weights": "validation"}]
        study = accepted(said)
        if study is None:
            continue
        plans += 1
        stages = reached(plan_stages(Sketch(study))[2])
        labels = [stage.label for stage in stages]
        assert len(set(labels)) == len(labels) == len({stage.key for stage in stages})
    assert plans == 32


# --- what it costs


def test_defaults_are_small_and_the_report_names_those_that_were_left(
    backbone: Path, tmp_path: Path
) -> None:
    plain = validate(WeaveRecRecipe, {"domains": ["books", "films"]})
    sizes = dict.fromkeys(("books", "films"), DomainSizes(4000, 50_000, 9000, 9000))
    whole = Work()
    for stage in reached(plan_stages(Sketch(plain))[2]):
        whole += work_of(stage, sizes)
    # Own 2 × 2,000, a hybrid of both, twice the epochs of each; 4 models of each measured.
    assert whole == Work(examples=16_000, titles=8 * 4000, users=8 * 1000, merges=2)
    (note,) = WeaveRec.of(Sketch(plain)).notes(tmp_path)
    for words in (
        "branches.examples (2,000 of each domain)", "branches.epochs (1)",
        "recommender.history_items (5)", "recommender.history_tokens (64)",
        "evaluate.users (1,000 drawn test users, or all)", "controls (matched)",
    ):  # fmt: skip
        assert words in note
    said = {
        "domains": ["books", "films"], "branches": {"examples": 8000, "epochs": 1},
        "recommender": {"history_items": 10}, "evaluate": {"users": None}, "controls": [],
    }  # fmt: skip
    own = validate(WeaveRecRecipe, said)
    (note,) = WeaveRec.of(Sketch(own)).notes(tmp_path)
    assert "recommender.history_tokens (64)" in note
    assert not any(word in note for word in ("examples", "items", "users", "controls", "epochs"))


def test_checkpoints_are_merged_where_all_parameters_are_trained(
    backbone: Path, tmp_path: Path
) -> None:
    said = values(
        backbone,
        branches={"parameters": "all", "examples": 16, "learning_rate": 3e-3},
        merge={
            "weights": "validation", "validation_users": 6,
            "beside": ["linear", "ties", {"weights": [1.0, 0.5]}, {"weights": "collaborative"}],
            "collaborative": {"steps": 3, "batch": 4, "held_out": 4},
        },
        controls=[name for name in EVERY_CONTROL if name != "factors"],
    )  # fmt: skip
    said["evaluate"] |= {"users": 6}
    study = read(yaml.safe_load(yaml.safe_dump(said)), tmp_path)
    plan = Plan(study, None, "cpu")
    _, measured, stages = plan_stages(plan)
    do(stages, tmp_path)
    of = {one.row: one.weights for one in measured if one.weights is not None}

    def weights(row: str) -> dict[str, torch.Tensor]:
        return load_file(of[row].folder(tmp_path) / "checkpoint" / "model.safetensors")

    base = load_file(backbone / "model.safetensors")
    own, hybrid = weights("target-only"), weights("hybrid: toys")
    mean, sum_ = weights("hybrids, linear"), weights("hybrids, linear (weights 1.0 0.5)")
    assert set(mean) == set(own)
    for name in own:
        torch.testing.assert_close(mean[name], (own[name] + hybrid[name]) / 2)
        if name in base:  # a sum of task vectors, whatever the weights sum to
            start = base[name]
            wanted = start + (own[name] - start) + 0.5 * (hybrid[name] - start)
            torch.testing.assert_close(sum_[name], wanted, atol=1e-6, rtol=1e-5)
    woven = of["weaverec"]
    assert isinstance(woven, MergeCheckpoints) and isinstance(woven.weights, MergeWeightsStage)
    chosen = woven.weights.record(tmp_path)
    assert len(chosen["tried"]) == 5
    first, second = chosen["weights"]
    for name, value in weights("weaverec").items():
        torch.testing.assert_close(value, first * own[name] + second * hybrid[name])
