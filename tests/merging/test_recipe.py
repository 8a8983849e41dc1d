"""Merge recipes: what a file may say, and what is said when it may not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from weft.errors import WeftError
from weft.merging.paths import bytes_of
from weft.merging.recipe import MeanOf
from weft.merging.recipe_file import load_merge_recipe
from weft.merging.weights import Rule


def written(folder: Path, values: Any, name: str = "r.yaml") -> Path:
    path = folder / name
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return path


def test_a_recipe_is_read_with_paths_beside_the_file(tmp_path: Path) -> None:
    text = """
        method: {name: ties, density: 1e-1}
        parts:
          - {path: a, weight: 0.5, name: beauty}
          - {path: /far/b, weight: [0, 1]}
          - path: ../c
            weight:
              - {filter: mlp, value: 1e-3}
              - {value: 0}
        base: {mean_of: [p, q]}
        dtype: bfloat16
        shard_size: 2GB
        out: merged
    """
    recipe = load_merge_recipe(written(tmp_path, text))
    assert [part.path for part in recipe.parts] == [
        str(tmp_path / "a"),
        "/far/b",
        str(tmp_path / "../c"),
    ]
    rules = (Rule(filter="mlp", value=0.001), Rule(value=0.0))
    assert recipe.weights == [0.5, (0.0, 1.0), rules]
    assert recipe.base == MeanOf(mean_of=(str(tmp_path / "p"), str(tmp_path / "q")))
    assert recipe.out == str(tmp_path / "merged")
    assert (recipe.dtype, bytes_of(recipe.shard_size)) == ("bfloat16", 2 * 10**9)
    assert recipe.parts[0].name == "beauty"


def test_a_part_may_be_a_path_alone_and_zero_is_a_weight(tmp_path: Path) -> None:
    recipe = load_merge_recipe(written(tmp_path, {"parts": ["a", "b"]}))
    assert recipe.method == "linear" and recipe.weights is None
    parts = [{"path": "a", "weight": 0}, {"path": "b", "weight": 1}]
    assert load_merge_recipe(written(tmp_path, {"parts": parts})).weights == [0.0, 1.0]


def test_the_manifest_of_a_merge_is_a_recipe(tmp_path: Path) -> None:
    recipe = {"method": {"name": "linear"}, "parts": [{"path": "../a", "name": "a", "weight": 1}]}
    for merge in (recipe, {"method": "linear", "weights": [1], "recipe": recipe}):
        path = written(tmp_path, json.dumps({"merge": merge, "parents": []}), "weft.json")
        assert load_merge_recipe(path).parts[0].path == str(tmp_path / "../a")
    path = written(tmp_path, json.dumps({"merge": {"method": "linear"}}), "weft.json")
    with pytest.raises(WeftError, match="does not say where the parts"):
        load_merge_recipe(path)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"parts": ["a"], "weigths": [1]}, "weigths: not known"),
        ({"parts": [{"path": "a", "wieght": 1}]}, "parts.0.wieght: not known"),
        ({"parts": []}, "parts: needs at least 1 entry"),
        ({"method": "linear"}, "parts: missing"),
        ({"parts": [{"path": "a", "weight": "much"}]}, "parts.0.weight: 'much' is neither"),
        ({"parts": [{"path": "a", "weight": 1}, "b"]}, "part 'b' has no weight, but others"),
        ({"parts": ["a"], "method": "tie"}, "there is no method 'tie'"),
        (
            {"parts": ["a"], "method": {"name": "ties", "dense": 1}},
            "method 'ties': dense: not known",
        ),
        ({"parts": ["a"], "method": {"name": "ties", "density": 2}}, "method 'ties': density: "),
        ({"parts": ["a"], "shard_size": "5 apples"}, "shard_size: '5 apples' is no size"),
        ({"parts": ["a"], "dtype": "int8"}, "dtype: "),
        ({"parts": ["a"], "space": "detla"}, "space: "),
        ({"parts": ["a"], "rank": 0}, "rank: "),
        ({"base_model": "a", "gate_mode": "hidden", "experts": []}, "no mixtures of experts"),
        ("parts: [a", "is not valid YAML"),
        ("just words", "holds no mapping of settings"),
    ],
)
def test_what_is_wrong_is_one_sentence_with_file_and_key(
    tmp_path: Path, values: Any, words: str
) -> None:
    path = written(tmp_path, values)
    with pytest.raises(WeftError) as refused:
        load_merge_recipe(path)
    assert words in str(refused.value) and str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_name_of_the_hub_is_found_in_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    stored = tmp_path / "cache" / "models--owner--name"
    snapshot = stored / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text("a" * 40)
    parts = ["owner/name", "owner/other"]
    recipe = load_merge_recipe(written(tmp_path, {"parts": parts}))
    found = [part.path for part in recipe.parts]
    assert found == [str(snapshot), str(tmp_path / "owner" / "other")]
    (tmp_path / "owner" / "name").mkdir(parents=True)  # a folder that is there comes first
    recipe = load_merge_recipe(written(tmp_path, {"parts": parts}))
    assert recipe.parts[0].path == str(tmp_path / "owner" / "name")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeftError, match=r"no\.yaml does not exist"):
        load_merge_recipe(tmp_path / "no.yaml")


@pytest.mark.parametrize(
    ("size", "count"),
    [("5GB", 5 * 10**9), ("512 MiB", 512 << 20), ("1.5kB", 1500), (7, 7), ("7", 7), ("7b", 7)],
)
def test_sizes(size: Any, count: int) -> None:
    assert bytes_of(size) == count


@pytest.mark.parametrize("size", ["", "GB", "-5GB", "5XB", "0", "0.1B"])
def test_what_is_no_size_is_refused(size: str) -> None:
    with pytest.raises(WeftError, match="size"):
        bytes_of(size)
