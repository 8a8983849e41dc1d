"""Layers of several checkpoints put one upon another, by recipes and by mergekit's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from weft.errors import WeftError
from weft.merging.mergekit.recipe import translate
from weft.merging.plan import plan_recipe
from weft.merging.recipe_file import load_merge_recipe

LAYERS, WIDTH = 4, 3


def checkpoint(folder: Path, seed: int, layers: int = LAYERS, **config: Any) -> Path:
    random = torch.Generator().manual_seed(seed)
    names = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    names += [f"model.layers.{i}.{m}.weight" for i in range(layers) for m in ("mlp.up", "attn.q")]
    tensors = {name: torch.randn(5, WIDTH, generator=random) for name in names}
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    told = {
        "model_type": "llama",
        "num_hidden_layers": layers,
        "hidden_size": WIDTH,
        "vocab_size": 5,
    }
    kinds = ["full" if k % 2 else f"sliding{seed}" for k in range(layers)]
    (folder / "config.json").write_text(json.dumps(told | {"layer_types": kinds} | config))
    return folder


def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for seed, name in enumerate(("a", "b", "c")):
        checkpoint(tmp_path / name, seed)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(text: str, out: str = "out") -> dict[str, Tensor]:
    notes: list[str] = []
    path = Path("m.yaml")
    path.write_text(text)
    plan_recipe(load_merge_recipe(path, notes.append)).run(out)
    assert notes == []
    return tensors(Path(out))


def test_a_taller_model_out_of_two(place: Path) -> None:
    """As mergekit's example that stacks two models to 44 layers."""
    found = run("""
        slices:
          - sources: [{model: a, layer_range: [0, 3]}]
          - sources: [{model: b, layer_range: [1, 4]}]
        merge_method: passthrough
        dtype: float32
    """)
    a, b = tensors(place / "a"), tensors(place / "b")
    layer = "model.layers.{}.mlp.up.weight"
    for new, (model, old) in enumerate([(a, 0), (a, 1), (a, 2), (b, 1), (b, 2), (b, 3)]):
        assert torch.equal(found[layer.format(new)], model[layer.format(old)])
    assert torch.equal(found["model.embed_tokens.weight"], a["model.embed_tokens.weight"])
    for name in ("model.norm.weight", "lm_head.weight"):
        assert torch.equal(found[name], b[name])
    assert len(found) == 3 + 2 * 6
    config = json.loads((place / "out" / "config.json").read_text())
    assert config["num_hidden_layers"] == 6
    assert config["layer_types"] == ["sliding0", "full", "sliding0", "full", "sliding1", "full"]


def test_what_was_stacked_is_stacked_again_by_its_manifest(place: Path) -> None:
    first = run("""
        slices:
          - sources: [{model: a, layer_range: [0, 2]}]
          - sources: [{model: a, layer_range: [1, 4], parameters: {scale: 0.5}}]
        merge_method: passthrough
    """)
    manifest = json.loads((place / "out" / "weft.json").read_text())
    assert manifest["merge"]["parts"][0]["slices"][1] == {"path": "../a", "layers": [1, 4]}
    assert set(manifest["parents"][0]["files"]) == {"a/model.safetensors"}
    plan_recipe(load_merge_recipe(place / "out" / "weft.json")).run("again")
    again = tensors(place / "again")
    assert first.keys() == again.keys() and all(torch.equal(first[n], again[n]) for n in first)
    assert torch.equal(
        first["model.layers.3.attn.q.weight"],
        0.5 * tensors(place / "a")["model.layers.2.attn.q.weight"],
    )
    config = json.loads((place / "out" / "config.json").read_text())
    assert config["num_hidden_layers"] == 5


def test_slices_that_leave_layers_out_make_a_shorter_model(place: Path) -> None:
    found = run("""
        merge_method: linear
        slices: [{sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 2]}]}]
        parameters: {weight: 0.5}
    """)
    assert len(found) == 3 + 2 * 2
    a, b = tensors(place / "a"), tensors(place / "b")
    torch.testing.assert_close(
        found["lm_head.weight"], (a["lm_head.weight"] + b["lm_head.weight"]) / 2
    )


def test_every_slice_merges_models_of_its_own(place: Path) -> None:
    found = run("""
        merge_method: task_arithmetic
        base_model: a
        slices:
          - sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [1, 3]}]
            parameters: {weight: [0, 1]}
          - sources: [{model: c, layer_range: [2, 4]}, {model: b, layer_range: [2, 4]}]
            base_model: c
            parameters: {weight: 0.25}
    """)
    a, b, c = (tensors(place / name) for name in "abc")
    layer = "model.layers.{}.attn.q.weight".format
    for new, (origin, i, other, j, weight) in enumerate(
        [(a, 0, b, 1, 0.0), (a, 1, b, 2, 1.0), (c, 2, b, 2, 0.25), (c, 3, b, 3, 0.25)]
    ):
        wanted = origin[layer(i)] + weight * (other[layer(j)] - origin[layer(i)])
        torch.testing.assert_close(found[layer(new)], wanted)
    head = c["lm_head.weight"]
    torch.testing.assert_close(found["lm_head.weight"], head + 0.25 * (b["lm_head.weight"] - head))


STACK = """
    merge_method: {}
    slices:
      - sources: [{{model: a, layer_range: [0, 3]}}]
      - sources: [{}]
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            STACK.format("passthrough", "{model: b, layer_range: [3, 6]}"),
            "b has the layers 0 to 3, so there is no slice 3 to 6",
        ),
        (
            STACK.format("passthrough", "{model: wide, layer_range: [0, 2]}"),
            "layers of wide can't be stacked on those of a: hidden_size is 3 and 4",
        ),
        (
            STACK.format("passthrough", "{model: two, layer_range: [0, 2]}"),
            "two has two stacks of layers (decoder.layers.… and model.layers.…)",
        ),
        (
            STACK.format("linear", "{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 2]}"),
            "slice 2 merges 2 models and slice 1 1: weft merges the same number in every slice",
        ),
        (
            STACK.format("passthrough", "{model: b, layer_range: [3, 3]}"),
            "slice 2: layer_range [3, 3] is no range of layers",
        ),
        (STACK.format("ties", "{model: b, layer_range: [0, 3]}"), "slice 1 needs a base_model"),
        (
            "base_model: c\n" + STACK.format("ties", "{model: b, layer_range: [0, 3]}").replace("    ", ""),
            "slice 1 does not take layers of its base_model 'c'",
        ),
        (
            STACK.format("passthrough", "{model: b, layer_range: [0, 1]}") + "        residual_weight: 1",
            "residual_weight is read by nothing",
        ),
        (
            STACK.format("passthrough", "{model: b, layer_range: [1, 2]}")
            + "    parameters: {scale: [{filter: layers.3., value: 0.5}, {value: 1}]}",
            "filter 'layers.3.': stacked layers are numbered anew",
        ),
        ("parts: [{name: x}]", "a part has a path or slices, one of them"),
        ("parts: [{slices: [{path: a, layers: [2, 2]}]}]", "layers [2, 2] is no range"),
        ("merge_method: linear\n---\nmerge_method: linear", "holds several YAML documents; give each its own file"),
    ],
)  # fmt: skip
def test_what_cannot_be_stacked_is_said_in_one_sentence(place: Path, text: str, words: str) -> None:
    checkpoint(place / "wide", 5, hidden_size=4)
    two = checkpoint(place / "two", 6)
    save_file(
        tensors(two) | {"decoder.layers.0.x.weight": torch.ones(2)}, two / "model.safetensors"
    )
    with pytest.raises(WeftError) as refused:
        run(text)
    assert words in str(refused.value) and "\n" not in str(refused.value)
    assert not (place / "out").exists()


@pytest.mark.parametrize("kind", ["tokenizer.json", "vocab.txt"])
def test_models_of_other_tokenizers_are_not_stacked(place: Path, kind: str) -> None:
    for name, token in (("a", "x"), ("b", "y")):
        fast = json.dumps({"model": {"vocab": {token: 0}}})
        (place / name / kind).write_text(fast if kind == "tokenizer.json" else f"{token}\n")
    with pytest.raises(WeftError, match="b has another tokenizer than a, so the head of one"):
        run(STACK.format("passthrough", "{model: b, layer_range: [0, 1]}"))


@pytest.mark.parametrize("source", ["union", "a", "b", "{base}"])
def test_a_tokenizers_source_among_stacked_models_is_their_one_vocabulary(source: str) -> None:
    notes: list[str] = []
    text = STACK.format("passthrough", "{model: b, layer_range: [0, 1]}")
    said = (
        "base_model: a\ntokenizer_source: base"
        if source == "{base}"
        else f"tokenizer_source: {source}"
    )
    values = {**yaml.safe_load(text), **yaml.safe_load(said)}
    assert translate(values, notes.append).tokenizer is None
    assert any("models that are stacked have one vocabulary" in note for note in notes)
    for other in ({"tokenizer_source": "c"}, {"tokenizer": {"tokens": {"x": {"source": "a"}}}},
                  {"tokenizer": {"source": "union", "pad_to_multiple_of": 8}}):  # fmt: skip
        with pytest.raises(WeftError, match="can't change the vocabulary of stacked layers"):
            translate({**yaml.safe_load(text), **other}, notes.append)


def test_recipes_stack_parts_and_bases(place: Path) -> None:
    slices = [{"path": "a", "layers": [0, 1]}, {"path": "b", "layers": [0, 1]}]
    turned = [{"path": "c", "layers": [2, 3]}, {"path": "c", "layers": [3, 4]}]
    recipe = {"method": "task_arithmetic", "parts": [{"slices": slices, "weight": 0.5}],
              "base": {"slices": turned}}  # fmt: skip
    found = run(yaml.safe_dump(recipe))
    a, c = tensors(place / "a"), tensors(place / "c")
    name = "model.layers.0.mlp.up.weight"
    torch.testing.assert_close(found[name], 0.5 * a[name] + 0.5 * c["model.layers.2.mlp.up.weight"])
