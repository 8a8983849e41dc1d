"""One call for every merge: adapters, checkpoints and tensors in memory against plain sums."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from weft.adapters import Adapter, Factors, load_adapter, save_adapter
from weft.errors import WeftError
from weft.merging.merge import merge, plan_merge
from weft.merging.plan import plan_recipe
from weft.merging.recipe_file import load_merge_recipe

NAMES = [
    "model.embed_tokens.weight",
    *(f"model.layers.{i}.{m}.weight" for i in range(3) for m in ("mlp", "attn")),
    "model.norm.weight",
]


def tensors(seed: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    shapes = {name: (5,) if "norm" in name else (4, 5) for name in NAMES}
    return {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}


def checkpoint(folder: Path, seed: int) -> Path:
    folder.mkdir(parents=True)
    save_file(tensors(seed), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def adapter(seed: int) -> Adapter:
    random = torch.Generator().manual_seed(seed)
    factors = {
        name: Factors(torch.randn(2, 5, generator=random), torch.randn(4, 2, generator=random), 2.0)
        for name in ("layers.0.query", "layers.1.query")
    }
    return Adapter(factors, {"backbone": {"name": "tiny", "fingerprint": "f" * 64}})


def weighted(table: dict[str, list[float]], seeds: list[int]) -> dict[str, Tensor]:
    parts = [tensors(seed) for seed in seeds]
    return {
        name: torch.stack(
            [w * part[name].double() for w, part in zip(weights, parts, strict=True)]
        ).sum(0)
        for name, weights in table.items()
    }


def test_tensors_in_memory_by_rules_and_gradients() -> None:
    rules: Any = [{"pattern": "mlp", "value": 0.25}, {"value": [0, 1]}]
    merged = merge([tensors(1), tensors(2)], weights=[rules, 1])
    depth = {f"model.layers.{i}.attn.weight": i / 2 for i in range(3)}
    depth |= {"model.embed_tokens.weight": 0.0, "model.norm.weight": 1.0}
    depth |= {f"model.layers.{i}.mlp.weight": 0.25 for i in range(3)}
    expected = weighted({name: [depth[name], 1.0] for name in NAMES}, [1, 2])
    assert isinstance(merged, dict) and list(merged) == NAMES
    for name in NAMES:
        torch.testing.assert_close(merged[name].double(), expected[name], rtol=1e-6, atol=1e-6)


def test_a_method_takes_its_own_weights_unless_it_is_given_some() -> None:
    merged = merge([tensors(1), tensors(2)], "task_arithmetic", base=tensors(3), dtype="float64")
    weights = {name: [0.2, 0.2, 0.6] for name in NAMES}
    expected = weighted(weights, [1, 2, 3])
    assert isinstance(merged, dict)
    for name in NAMES:
        assert merged[name].dtype == torch.float64
        torch.testing.assert_close(merged[name], expected[name], rtol=1e-6, atol=1e-6)


def test_checkpoints_are_written_and_the_recipe_gives_the_same_bytes(tmp_path: Path) -> None:
    parts = [checkpoint(tmp_path / f"m{i}", i) for i in range(3)]
    base = [checkpoint(tmp_path / "bases" / f"m{i}", 10 + i) for i in range(2)]
    method = {"name": "dare", "drop_rate": 0.4, "seed": 3, "then": {"name": "ties", "density": 0.5}}
    weights = [0.5, [0, 1], [{"filter": "mlp", "value": 2}, {"value": 1e-3}]]
    nothing = merge(parts, method, weights, base=base, out=tmp_path / "out" / "x")
    assert nothing is None
    replayed = load_merge_recipe(tmp_path / "out" / "x" / "weft.json")
    assert replayed.weights is not None and replayed.weights[:2] == [0.5, (0.0, 1.0)]
    plan_recipe(replayed).run(tmp_path / "again")
    files = [tmp_path / "out" / "x" / "model.safetensors", tmp_path / "again" / "model.safetensors"]
    assert files[0].read_bytes() == files[1].read_bytes()
    # The same from memory: masks hang on names and labels, not on files.
    mean = {n: ((tensors(10)[n].double() + tensors(11)[n].double()) / 2).float() for n in NAMES}
    memory = merge(
        [tensors(i) for i in range(3)], method, weights, base=mean, labels=["m0", "m1", "m2"]
    )
    assert isinstance(memory, dict)
    for name, found in load_file(files[0]).items():
        assert torch.equal(found, memory[name])


def test_the_manifest_says_everything_in_plain_numbers(tmp_path: Path) -> None:
    parts = [checkpoint(tmp_path / f"m{i}", i) for i in range(2)]
    out = tmp_path / "out"
    merge(parts, {"name": "ties", "density": 0.5}, base=parts[0], out=out, dtype="bfloat16")
    said = json.loads((out / "weft.json").read_text())["merge"]
    assert said["parts"] == [
        {"path": "../m0", "name": "m0", "weight": 1.0},
        {"path": "../m1", "name": "m1", "weight": 1.0},
    ]
    assert said["base"] == "../m0" and said["dtype"] == "bfloat16"
    assert said["method"]["name"] == "ties" and said["method"]["trim"] == "global"


def test_adapters_in_memory_and_from_folders(tmp_path: Path) -> None:
    parts = [adapter(1), adapter(2)]
    merged = merge(parts, weights=[[{"filter": "layers.0", "value": 3}, {"value": 0.5}], 1.0])
    assert isinstance(merged, Adapter)
    for name, own in (("layers.0.query", 3.0), ("layers.1.query", 0.5)):
        one, other = (part.factors[name].delta() for part in parts)
        torch.testing.assert_close(merged.factors[name].delta(), own * one + other)
    for k, part in enumerate(parts):
        save_adapter(part, tmp_path / f"p{k}")
    folders = [tmp_path / "p0", str(tmp_path / "p1")]
    assert merge(folders, "ties", out=tmp_path / "out", rank=2) is None
    loaded = load_adapter(tmp_path / "out")
    assert {factors.rank for factors in loaded.factors.values()} == {2}
    recipe = load_merge_recipe(tmp_path / "out" / "weft.json")
    assert recipe.rank == 2 and recipe.space == "delta"
    again = plan_recipe(recipe).run()
    assert isinstance(again, Adapter) and again.weights_hash == loaded.weights_hash


def test_labels_are_folder_names_as_long_as_it_takes(tmp_path: Path) -> None:
    folders = [checkpoint(tmp_path / run / name, 1) for run in "ab" for name in ("last", run)]
    assert plan_merge(folders).parts.labels == ("a/last", "a", "b/last", "b")
    twice = plan_merge([folders[0], folders[0]]).parts.labels
    assert len(set(twice)) == 2
    assert plan_merge(folders[:2], labels=["x", None]).parts.labels == ("x", "a")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"parts": []}, "at least one part"),
        ({"parts": "m0"}, "a list of at least one part"),
        ({"parts": [tensors(1), adapter(1)]}, "'part 1' is tensors in memory, 'part 2' is an adap"),
        ({"parts": [tensors(1), 3]}, "not a int"),
        ({"parts": ["no/where"]}, "where is not an adapter folder or a checkpoint: it does not"),
        ({"weights": [1]}, "2 parts need 2 weights, not 1"),
        ({"weights": [1, float("nan")]}, "part 'part 2': nan is not a finite number"),
        ({"weights": [1, [{"pattern": "mpl", "value": 1}]]}, "pattern 'mpl' fits no tensor"),
        ({"method": "ties"}, "method 'ties' needs a base"),
        ({"method": "tie"}, "there is no method 'tie'"),
        ({"method": "lego"}, "method 'lego' is for adapters"),
        ({"rank": 3}, "rank is for adapters"),
        ({"space": "factors"}, "space is for adapters"),
        ({"dtype": "int7"}, "dtype: 'int7' is no dtype of weights"),
        ({"labels": ["x", "x"]}, "two parts are named 'x'"),
        ({"labels": ["x"]}, "2 parts need 2 names, not 1"),
        ({"parts": [adapter(1), adapter(2)], "base": tensors(1)}, "adapters are differences"),
        ({"parts": [adapter(1), adapter(2)], "dtype": "float64"}, "factors are stored as float32"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(WeftError) as refused:
        merge(**({"parts": [tensors(1), tensors(2)]} | arguments))
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_checkpoints_need_an_out_and_a_new_one(tmp_path: Path) -> None:
    parts = [checkpoint(tmp_path / f"m{i}", i) for i in range(2)]
    with pytest.raises(WeftError, match="needs an out"):
        merge(parts)
    with pytest.raises(WeftError, match="exists already"):
        merge(parts, out=tmp_path / "m0")


def test_parts_have_options_of_their_own_in_python_and_in_recipes(tmp_path: Path) -> None:
    base, one, other = (
        {f"layers.{i}.x": torch.arange(1.0, 9.0) * scale for i in range(2)}
        for scale in (0.0, 1.0, -2.0)
    )
    method = {"name": "magnitude_prune", "keep": "exact"}
    options: list[dict[str, Any]] = [{"density": [0.25, 0.5]}, {}]
    found = merge([one, other], method, [1.0, 1.0], base=base, options=options)
    assert isinstance(found, dict)
    # 2 and 4 entries of the first, and int(.2 · 8) = 1 of the second, the method's own
    assert found["layers.0.x"].tolist() == [0, 0, 0, 0, 0, 0, 7, -8]
    assert found["layers.1.x"].tolist() == [0, 0, 0, 0, 5, 6, 7, -8]
    for name, model in (("base", base), ("one", one), ("other", other)):
        save_file(model, tmp_path / f"{name}.safetensors")
    recipe = {
        "method": method,
        "base": "base.safetensors",
        "parts": [
            {"path": "one.safetensors", "weight": 1, "density": [0.25, 0.5]},
            {"path": "other.safetensors", "weight": 1},
        ],
    }
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    for source, out in ((tmp_path / "r.yaml", "out"), (tmp_path / "out" / "weft.json", "again")):
        plan_recipe(load_merge_recipe(source)).run(tmp_path / out)
        written = load_file(tmp_path / out / "model.safetensors")
        assert all(torch.equal(written[name], found[name]) for name in found)
    for options, words in (
        ([{"gamma": 0.1}, {}], "has no gamma of single parts"),
        ([{"density": 1.5}, {}], "density must lie between 0 and 1, not 1.5"),
        ([{}], "2 parts need 2 sets of options, not 1"),
    ):
        with pytest.raises(WeftError, match=words):
            merge([one, other], method, base=base, options=options)


def test_task_vectors_can_be_rounded_before_they_are_ranked() -> None:
    base = {"x": torch.tensor([1.0, 1.0])}
    part = {"x": torch.tensor([1.0 + 2**-9, 1.0 + 2**-7])}
    found = merge([part], {"name": "task_arithmetic"}, [1.0], base=base, round_to="bfloat16")
    assert isinstance(found, dict) and found["x"].tolist() == [1.0, 1.0 + 2**-7]
    with pytest.raises(WeftError, match="round_to is for checkpoints"):
        merge([adapter(1)], round_to="bfloat16")


@pytest.mark.parametrize(
    ("method", "weights", "said"),
    [
        ("linear", [1.0, 1.0], "the weights sum to 2, so every tensor is 2 times a mean"),
        ("linear", [0.0, 0.0], "the weights sum to 0"),
        ("linear", [0.7, 0.3], ""),
        ({"name": "linear", "normalize": True}, [1.0, 1.0], ""),
        ("karcher", [1.0, 1.0], ""),
    ],
)
def test_a_sum_that_is_no_mean_is_said(method: Any, weights: list[float], said: str) -> None:
    notes = " ".join(plan_merge([tensors(1), tensors(2)], method, weights).notes)
    assert notes.startswith(said) and bool(notes) == bool(said)
