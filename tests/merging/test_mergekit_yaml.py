"""mergekit's YAML as weft recipes, each against what mergekit documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mergekit_files import CONSENSUS, LAYERS, NAMES, read, table, two

from weft.errors import WeftError
from weft.merging.recipe import MergeRecipe
from weft.merging.recipe_file import load_merge_recipe
from weft.merging.weights import resolve_weights


def test_linear_averages_unless_it_says_otherwise() -> None:
    text = """
        merge_method: linear
        models:
          - {model: a, parameters: {weight: 1}}
          - {model: b, parameters: {weight: 0.3}}
        parameters: {normalize: %s}
        dtype: float16
        out_dtype: bfloat16
    """
    recipe, said = read(text % "false")
    assert recipe.method == {"name": "linear", "normalize": False} and said == []
    assert recipe.weights == [1.0, 0.3] and recipe.base is None and recipe.dtype == "bfloat16"
    assert read(text.replace("parameters: {normalize: %s}", ""))[0].method == {
        "name": "linear",
        "normalize": True,
    }


def test_slerp_with_filters_and_gradients_over_slices() -> None:
    recipe, _ = read("""
        slices:
          - sources:
              - {model: b, layer_range: [0, 4]}
              - {model: a, layer_range: [0, 4]}
        merge_method: slerp
        base_model: a
        parameters:
          t:
            - {filter: self_attn, value: [0, 0.5, 0.3, 1]}
            - {filter: mlp, value: [1, 0]}
            - value: 0.5
        dtype: bfloat16
    """)
    assert recipe.method == {"name": "slerp"} and recipe.base is None
    assert [part.path for part in recipe.parts] == ["a", "b"]  # from a (t = 0) to b (t = 1)
    t = {name: weights[1] for name, weights in table(recipe).items()}
    attention = [t[f"model.layers.{i}.self_attn.q.weight"] for i in range(4)]
    mlp = [t[f"model.layers.{i}.mlp.up.weight"] for i in range(4)]
    assert attention == pytest.approx([0, 0.5, 0.3, 1], abs=1e-15)
    assert mlp == pytest.approx([1, 2 / 3, 1 / 3, 0], abs=1e-15)
    assert t["model.embed_tokens.weight"] == t["lm_head.weight"] == 0.5
    assert all(sum(weights) == pytest.approx(1) for weights in table(recipe).values())


def test_weights_are_looked_up_in_the_model_then_the_file() -> None:
    recipe, _ = read("""
        merge_method: task_arithmetic
        base_model: base
        models:
          - model: a
            parameters:
              weight:
                - {filter: mlp, value: [0, 1]}
                - {filter: lm_head, value: 9}
          - model: b
        parameters:
          weight: 0.25
    """)
    found = table(recipe)
    assert [found[f"model.layers.{i}.mlp.up.weight"][0] for i in range(4)] == [0, 1 / 3, 2 / 3, 1]
    assert found["lm_head.weight"] == [9, 0.25]
    assert found["model.layers.2.self_attn.q.weight"] == [0.25, 0.25]


def test_slices_that_cover_every_layer_in_order_are_layer_rules() -> None:
    recipe, _ = read("""
        merge_method: linear
        slices:
          - sources:
              - {model: a, layer_range: [0, 1], parameters: {weight: 1}}
              - {model: b, layer_range: [0, 1], parameters: {weight: 0}}
          - sources:
              - {model: b, layer_range: [1, 4]}
              - {model: a, layer_range: [1, 4]}
            parameters: {weight: [0, 1]}
    """)
    found = table(recipe)
    assert [found[f"model.layers.{i}.mlp.up.weight"] for i in range(4)] == [
        [1, 0],
        [0, 0],
        [0.5, 0.5],
        [1, 1],
    ]
    assert found["model.embed_tokens.weight"] == [1, 0]  # of the first slice
    assert found["lm_head.weight"] == [0, 0]  # of the last slice, the gradient's first number


def test_slices_that_leave_layers_out_do_not_fit_the_model() -> None:
    text = """
        merge_method: linear
        slices: [{sources: [{model: a, layer_range: [0, %d]}]}]
        parameters: {weight: 1}
    """
    with pytest.raises(
        WeftError, match=r"no rule gives a weight for tensor 'model\.layers\.3.*\(layer 3\)"
    ):
        table(read(text % 3)[0])
    with pytest.raises(WeftError, match="there are 4 layers"):
        table(read(text % 5)[0])


def test_passthrough_of_one_model_is_a_copy() -> None:
    recipe, _ = read("{merge_method: passthrough, models: [{model: a}]}")
    assert recipe.method == {"name": "linear", "normalize": False} and recipe.weights == [1.0]


def test_what_has_no_effect_is_told() -> None:
    more = "tokenizer_source: base\n        chat_template: auto"
    recipe, said = read(two("ties", "density: 1, int8_mask: true, t: 1", more=more))
    assert recipe.method == CONSENSUS | {"normalize": True}
    assert recipe.tokenizer is not None and recipe.tokenizer.source == "base"
    assert said == [
        "chat_template has no effect: the first model's files are copied",
        "'int8_mask' has no effect: it only saves mergekit memory",
        "'t' has no effect: ties has no such parameter",
    ]


TOKENIZERS: list[tuple[str, str, dict[str, Any]]] = [
    ("ties", "tokenizer_source: union", {"source": "union"}),
    ("ties", "tokenizer_source: a", {"source": "a"}),
    ("ties", "tokenizer: {}", {"source": "union"}),
    ("linear", "tokenizer: {source: base}", {"source": "base"}),
    (
        "ties",
        """tokenizer:
          source: base
          pad_to_multiple_of: 64
          tokens:
            x: {source: {model: {path: a}}, force: true}
            y: {source: {kind: model_token, model: {model: {path: b}}, token_id: 7}}
            z: {source: {kind: zero}}""",
        {
            "source": "base",
            "pad_to_multiple_of": 64,
            "tokens": {
                "x": {"source": "a", "force": True},
                "y": {"source": {"model": "b", "token_id": 7}},
                "z": {"source": {"kind": "zero"}},
            },
        },
    ),
]


@pytest.mark.parametrize(("method", "more", "rules"), TOKENIZERS)
def test_the_vocabulary_of_the_output(method: str, more: str, rules: dict[str, Any]) -> None:
    text = two(method, "weight: 1", more=more)
    if method == "linear":
        text = text.replace("base_model: base", "")
    recipe, _ = read(text)
    assert recipe.tokenizer is not None
    assert recipe.tokenizer == type(recipe.tokenizer).model_validate(rules)


def test_a_base_model_among_the_models_of_linear_gives_the_rows_of_missing_tokens() -> None:
    text = two("linear", "weight: 1", more="tokenizer_source: union").replace(
        "base_model: base", "base_model: b"
    )
    recipe, _ = read(text)
    assert recipe.tokenizer is not None
    assert (recipe.tokenizer.source, recipe.tokenizer.base) == ("union", "b")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (two("tise"), "merge_method 'tise' is not known; these work: arcee_fusion, "),
        (two("core_space"), "is one of mergekit's that weft has not"),
        (two("ties", own=""), "mergekit's ties needs a weight for 'a'"),
        (two("ties", "lambda: [1, 0.5]"), "but weft takes one lambda for all layers and tensors"),
        (
            two("nearswap", "t: 0.1", own=""),
            "nearswap takes one model beside the base_model, not 2",
        ),
        (
            two("nuslerp", own="weight: 1").replace("{model: a, parameters: {weight: 1}}", "a"),
            "models",
        ),
        (two("slerp", "t: 0.5"), "slerp goes from base_model to one other model"),
        (two("ties", more="tokenizer: {tokens: [x]}"), "tokenizer.tokens is no mapping"),
        (two("ties", more="tokenizer: {tokens: {x: {forced: true}}}"), "forced: not known"),
        (two("ties", more="tokenizer: {source: {lora: a}}"), "weft knows only a path, not lora"),
        (two("ties", more="modles: []"), "modles: not known"),
        (two("ties", more="dtype: float8"), "dtype: 'float8' is no dtype of weights"),
        ("{merge_method: ties, models: [{model: a}]}", "needs a base_model"),
        ("{merge_method: ties, base_model: a, models: [{model: a}]}", "no model to merge beside"),
        ("{merge_method: linear}", "say models or slices"),
        ("{merge_method: linear, modules: {text: {}}}", "weft merges whole models only"),
        ("{merge_method: linear, models: [{model: a+lora}]}", "fold the adapter into a checkpoint"),
        ("{merge_method: linear, models: [{model: a}, {model: a}]}", "'a' is listed twice"),
        ("{merge_method: passthrough, models: [{model: a}, {model: b}]}", "takes one model, not 2"),
    ],
)
def test_what_weft_does_not_do_is_refused_by_name(text: str, words: str) -> None:
    with pytest.raises(WeftError) as refused:
        read(text)
    assert words in str(refused.value)


def own(recipe: MergeRecipe, option: str) -> dict[str, list[float]]:
    """An option of single parts by tensor."""
    specs = [part.options[option] for part in recipe.parts]
    found = resolve_weights(specs, NAMES, what=option)
    return {name: found(name) for name in NAMES}


def test_densities_and_weights_are_each_models_own() -> None:
    """As in mergekit's example of TIES."""
    recipe, _ = read("""
        models:
          - {model: a, parameters: {density: [1, 0.7, 0.1], weight: 1.0}}
          - {model: b, parameters: {density: 0.5, weight: [0, 0.3, 0.7, 1]}}
          - model: c
            parameters:
              density: 0.33
              weight:
                - {filter: mlp, value: 0.5}
                - value: 0
        merge_method: ties
        base_model: base
        parameters: {normalize: true, int8_mask: true}
        dtype: float16
    """)
    assert recipe.method == CONSENSUS | {"keep": "exact", "normalize": True, "votes": "float16"}
    assert recipe.round_to == recipe.dtype == "float16"
    density, weight = own(recipe, "density"), table(recipe)
    attention = [f"model.layers.{i}.self_attn.q.weight" for i in range(LAYERS)]
    assert [density[n][0] for n in attention] == pytest.approx([1, 0.8, 0.5, 0.1])
    assert [weight[n][1] for n in attention] == pytest.approx([0, 0.3, 0.7, 1])
    assert density[attention[2]][1:] == [0.5, 0.33]
    assert weight["model.layers.2.mlp.up.weight"][2] == 0.5 and weight[attention[2]][2] == 0
    # mergekit gives all that lies outside the layers a gradient's first number.
    for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"):
        assert density[name][0] == 1 and weight[name][1] == 0


@pytest.mark.parametrize(
    ("text", "option", "values"),
    [
        ("merge_method: dare_ties", "drop_rate", [0.5, 0.3]),
        ("merge_method: della", "drop_rate", [0.5, 0.3]),
        ("merge_method: breadcrumbs", "density", [0.5, 0.7]),
    ],
)
def test_every_sparse_method_has_densities_of_its_models(
    text: str, option: str, values: list[float]
) -> None:
    recipe, _ = read(f"""
        {text}
        base_model: base
        models:
          - {{model: a, parameters: {{weight: 1, density: 0.5}}}}
          - {{model: b, parameters: {{weight: 1, density: 0.7}}}}
    """)
    assert own(recipe, option)["lm_head.weight"] == values


def test_epsilon_and_gamma_of_single_models() -> None:
    text = two("della", "density: 0.5", own="weight: 1").replace("a, parameters: {weight: 1}",
                                                                 "a, parameters: {weight: 1, epsilon: 0.2}")  # fmt: skip
    assert own(read(text)[0], "window")["lm_head.weight"] == [0.4, 0.3]
    text = two("breadcrumbs", "density: 0.9", own="weight: 1").replace("a, parameters: {weight: 1}",
                                                                       "a, parameters: {weight: 1, gamma: 0.05}")  # fmt: skip
    assert own(read(text)[0], "gamma")["lm_head.weight"] == [0.05, 0.01]


def test_a_base_that_a_method_does_not_know_is_one_of_the_models() -> None:
    recipe, _ = read(two("karcher", own="").replace("- {model: base}", ""))
    assert [part.path for part in recipe.parts] == ["a", "b", "base"] and recipe.base is None
    with pytest.raises(WeftError, match="mergekit's linear needs a weight for 'base'"):
        read(two("linear"))


def test_parameters_of_an_origin_are_told_to_have_no_effect() -> None:
    text = two("ties").replace("{model: base}", "{model: base, parameters: {density: 0.5}}")
    said = read(text)[1]
    assert said == ["'density' of the base_model has no effect: task vectors start from it"]


def test_a_file_is_recognised_by_its_merge_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("{merge_method: passthrough, models: [{model: a}]}")
    (tmp_path / "a").mkdir()
    assert load_merge_recipe(path).parts[0].path == str(tmp_path / "a")
    (tmp_path / "a").rmdir()
    (tmp_path / "run" / "a").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "run")  # mergekit looks where it is run
    assert load_merge_recipe(path).parts[0].path == "a"
    path.write_text("{merge_method: passthrough, models: [{modle: a}]}")
    with pytest.raises(WeftError, match=r"m\.yaml: models\.0\.model: missing"):
        load_merge_recipe(path)
