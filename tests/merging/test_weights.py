"""Weights by tensor: numbers, gradients over depth, rules; against numbers computed by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.errors import WeftError
from weft.merging.weights import resolve_weights

BODY = [f"model.layers.{i}.{m}.weight" for i in range(5) for m in ("mlp.up", "self_attn.q")]
NAMES = ["model.embed_tokens.weight", *BODY, "model.norm.weight", "lm_head.weight"]


def one(spec: Any, names: list[str] = NAMES) -> dict[str, float]:
    weights = resolve_weights([spec], names)
    return {name: weights(name)[0] for name in names}


def test_a_number_is_for_every_tensor() -> None:
    weights = resolve_weights([0.25, "-2", 1], NAMES)
    assert all(weights(name) == [0.25, -2.0, 1.0] for name in NAMES)


def test_a_gradient_is_interpolated_over_the_layers() -> None:
    found = one([0, 1, 0.5])  # five layers: depths 0, ¼, ½, ¾, 1
    by_layer = [found[f"model.layers.{i}.mlp.up.weight"] for i in range(5)]
    assert by_layer == [0, 0.5, 1, 0.75, 0.5]
    assert found["model.embed_tokens.weight"] == 0
    assert found["model.norm.weight"] == found["lm_head.weight"] == 0.5


@pytest.mark.parametrize(
    "names",
    [
        [f"encoder.layer.{i}.attention.self.query" for i in range(3)],
        [f"transformer.h.{i}.attn.weight" for i in range(3)],
        [f"blocks.{i}.w" for i in range(3)],
        [f"encoder.block.{i}.layer.0.SelfAttention.q.weight" for i in range(3)],
        [f"layers.{i}.mlp.experts.{9 - i}.w1" for i in range(3)],
    ],
)
def test_layers_are_read_from_names_of_many_kinds(names: list[str]) -> None:
    assert list(one([0, 1], names).values()) == [0, 0.5, 1]


def test_stacks_are_counted_on_their_own_and_embeddings_come_first() -> None:
    names = [
        *(f"encoder.layers.{i}.w" for i in range(3)),
        *(f"decoder.layers.{i}.w" for i in range(2)),
        "shared.weight",
        "transformer.wte.weight",
        "encoder.rel_embeddings.weight",
        "pooler.dense.weight",
    ]
    assert list(one([0, 1], names).values()) == [0, 0.5, 1, 0, 1, 0, 0, 0, 1]


def test_one_layer_lies_at_the_end() -> None:
    names = ["embed.weight", "layers.0.w", "norm.weight"]
    assert list(one([0, 1], names).values()) == [0, 1, 1]


def test_the_first_rule_that_fits_counts() -> None:
    found = one(
        [
            {"pattern": r"layers\.[01]\.", "value": 2},
            {"filter": "self_attn", "value": [0, 1]},
            {"pattern": "lm_head.weight", "value": -1},
            {"value": 0.5},
        ]
    )
    assert found["model.layers.1.self_attn.q.weight"] == 2
    assert found["model.layers.2.self_attn.q.weight"] == 0.5
    assert found["model.layers.3.self_attn.q.weight"] == 0.75
    assert found["model.layers.3.mlp.up.weight"] == found["model.norm.weight"] == 0.5
    assert found["lm_head.weight"] == -1


def test_a_whole_name_stands_for_that_tensor_alone() -> None:
    names = ["a.weight", "a.weight_scale", "xa.weight"]
    found = one([{"pattern": "a.weight", "value": 1}, {"value": 0}], names)
    assert found == {"a.weight": 1, "a.weight_scale": 0, "xa.weight": 0}


def test_a_range_of_layers_takes_what_lies_beyond_its_end_of_the_model() -> None:
    found = one([{"layers": [0, 2], "value": [0, 1]}, {"layers": [2, 5], "value": [2, 4]}])
    by_layer = [found[f"model.layers.{i}.mlp.up.weight"] for i in range(5)]
    assert by_layer == [0, 1, 2, 3, 4]
    assert found["model.embed_tokens.weight"] == 0 and found["lm_head.weight"] == 4


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=6), st.integers(1, 7))
def test_a_gradient_ends_where_it_says_and_never_leaves_its_numbers(
    gradient: list[float], layers: int
) -> None:
    found = list(
        one(gradient, ["embed.w", *(f"layers.{i}.w" for i in range(layers)), "n"]).values()
    )
    assert found[0] == gradient[0] and found[-1] == found[-2] == gradient[-1]
    slack = 1e-12 * max(map(abs, gradient))
    assert all(min(gradient) - slack <= x <= max(gradient) + slack for x in found)


@pytest.mark.parametrize(
    ("specs", "words"),
    [
        ([1, 1], "3 parts need 3 weights, not 2"),
        ([1, 1, float("nan")], "the weight of part 'c': nan is not a finite number"),
        ([1, [0, float("inf")], 1], "the weight of part 'b': inf is not a finite number"),
        ([1, 1, True], "True is neither a number"),
        ([1, 1, "much"], "'much' is neither a number"),
        ([1, 1, []], "a gradient needs at least one number"),
        ([[{"pattern": "mpl", "value": 1}, {"value": 0}], 1, 1], "pattern 'mpl' fits no tensor"),
        ([[{"pattern": "mlp", "value": 1}], 1, 1], "no rule gives a weight for tensor 'model.emb"),
        ([[{"pattern": "(", "value": 1}], 1, 1], "is no regular expression"),
        ([[{"pattern": "a", "filter": "b", "value": 1}], 1, 1], "say pattern or filter, not both"),
        ([[{"patern": "a", "value": 1}], 1, 1], "patern: not known"),
        ([[{"layers": [3, 3], "value": 1}], 1, 1], "is no range"),
        ([[{"layers": [3, 9], "value": 1}], 1, 1], "layers 3 to 8, but there are 5 layers"),
        ([[{"value": 1}, 3], 1, 1], "3 is no rule"),
    ],
)
def test_what_makes_no_sense_is_refused(specs: list[Any], words: str) -> None:
    with pytest.raises(WeftError) as refused:
        resolve_weights(specs, NAMES, ["a", "b", "c"])
    assert words in str(refused.value)


def test_a_gradient_without_layers_is_refused() -> None:
    with pytest.raises(WeftError, match="a gradient needs layers"):
        resolve_weights([[0, 1]], ["a", "b"])


def test_an_optional_rule_that_fits_nothing_is_told() -> None:
    rules = [{"filter": "lm_heed", "value": 1, "optional": True}, {"value": 0}]
    assert resolve_weights([rules, rules], NAMES).unused == ("filter 'lm_heed'",)
