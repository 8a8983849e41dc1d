"""What holds for every method: same bits however the work is cut, and a registry without gaps."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from method_cases import assert_close, assert_same_bits, merged, models, small_blocks

from weft.errors import WeftError
from weft.merging.methods import METHODS, Ties, describe_methods, make_method, method_options

SETTINGS = [
    *[name for name, method in METHODS.items() if not method.adapters_only],
    {"name": "ties", "trim": "tensor", "elect": "weighted", "normalize": False},
    {"name": "ties", "variant": "mmgrid"},
    {"name": "dare", "rescale": "l1", "then": "ties"},
    {"name": "della", "rescale": "l1", "then": {"name": "dare", "then": "pcb"}},
    {"name": "breadcrumbs", "then": {"name": "sce", "among": "changed"}},
    {"name": "model_stock", "filter_wise": True},
    {"name": "slerp", "norm": "mean"},
    {"name": "pcb", "scope": "tensor"},
    {"name": "ties", "keep": "exact"},
    {"name": "breadcrumbs", "keep": "exact", "trim": "global"},
    {"name": "sce", "keep": "exact", "among": "changed"},
    {"name": "nuslerp", "along": "rows"},
    {"name": "nuslerp", "along": "columns"},
    {"name": "ram", "boost": 0.1},
]
FOR_CHECKPOINTS = ("arcee_fusion",)


def parts_for(option, k=3):
    method = make_method(option)
    k = int(method.takes) if method.takes in ("1", "2") else k
    return method, models(k + 1), [0.5, 0.3, -0.2][:k]


@pytest.mark.parametrize("option", SETTINGS, ids=str)
def test_the_same_bits_at_one_and_three_threads(option, monkeypatch):
    small_blocks(monkeypatch)
    method, (base, *parts), weights = parts_for(option)
    one = merged(method, parts, weights, base, threads=1)
    assert_same_bits(one, merged(method, parts, weights, base, threads=3))


@pytest.mark.parametrize("option", [one for one in SETTINGS if one != "ext_sub"], ids=str)
def test_the_same_bits_in_whatever_order_parts_are_named(option, monkeypatch):
    small_blocks(monkeypatch)
    method, (base, *parts), weights = parts_for(option)
    labels = ["red", "green", "blue"]
    found = merged(method, parts, weights, base, labels=labels[: len(parts)])
    for order in itertools.permutations(range(len(parts))):
        turned = merged(
            method,
            [parts[k] for k in order],
            [weights[k] for k in order],
            base,
            labels=[labels[k] for k in order],
        )
        assert_same_bits(turned, found)


@pytest.mark.parametrize("option", SETTINGS, ids=str)
def test_the_same_numbers_however_small_the_blocks(option, monkeypatch):
    method, (base, *parts), weights = parts_for(option)
    whole = merged(method, parts, weights, base)
    small_blocks(monkeypatch)
    assert_close(
        merged(method, parts, weights, base), {n: t.double().numpy() for n, t in whole.items()}
    )


@pytest.mark.parametrize("option", SETTINGS, ids=str)
def test_merging_leaves_the_parts_as_they_are(option):
    method, (base, *parts), weights = parts_for(option)
    before = [{n: t.clone() for n, t in model.items()} for model in (base, *parts)]
    merged(method, parts, weights, base)
    for model, copy in zip((base, *parts), before, strict=True):
        assert_same_bits(model, copy)


@pytest.mark.parametrize("option", [one for one in SETTINGS if one not in FOR_CHECKPOINTS], ids=str)
def test_adapters_have_a_base_of_zero(option):
    method, (base, *parts), weights = parts_for(option)
    zero = {n: torch.zeros_like(t) for n, t in base.items()}
    with_zero = merged(method, parts, weights, zero)
    found = merged(method, parts, weights)
    for name in found:
        assert torch.equal(found[name], with_zero[name])  # but for the sign of a zero


@pytest.mark.parametrize(
    "option",
    ["linear", "karcher", "model_stock", {"name": "ties", "density": 1}, "sce", "slerp"],
    ids=str,
)
def test_equal_parts_merge_to_themselves(option):
    method, (base, part, *_), _ = parts_for(option)
    parts = [part] * (int(method.takes) if method.takes in ("1", "2") else 3)
    found = merged(method, parts, base=base)
    assert_close(found, {n: t.double().numpy() for n, t in part.items()}, 5e-7)


def test_every_method_is_described_and_its_options_make_it_again():
    docs = {doc.name: doc for doc in describe_methods()}
    assert list(docs) == list(METHODS) == [method.name for method in METHODS.values()]
    for name, doc in docs.items():
        method = make_method(name)
        assert doc.summary.endswith(".") and doc.source and doc.needs_base == method.needs_base
        assert all(text and kind and default for _, kind, default, text in doc.options)
        assert make_method(method_options(method)) == method
        assert doc.for_checkpoints == (name not in ("concat", "lego", "knots"))
        assert doc.for_adapters == (name not in FOR_CHECKPOINTS)
    assert ("trim", "global | tensor", "global") in [one[:3] for one in docs["ties"].options]


def test_a_nested_method_is_given_by_name_mapping_or_itself():
    ties = make_method({"name": "ties", "density": 0.3})
    for then in (ties, {"name": "ties", "density": 0.3}):
        assert make_method({"name": "dare", "then": then}) == make_method(
            {"name": "dare", "then": method_options(ties)}
        )
    assert make_method({"name": "dare", "then": "ties"}).then == make_method("ties")


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("tise", "no method 'tise'; methods are linear, "),
        ({"density": 0.5}, "a method needs a name"),
        ({"name": "ties", "densty": 0.5}, "method 'ties': densty: not known"),
        ({"name": "ties", "trim": "row"}, "method 'ties': trim"),
        ({"name": "dare", "then": "tise"}, "no method 'tise'"),
        ({"name": "dare", "then": {"name": "ties", "density": 2}}, "method 'ties': density"),
        ({"name": "dare", "then": "lego"}, "method 'lego' can't follow another"),
        ({"name": "dare", "then": "ext_sub"}, "method 'ext_sub' can't follow another"),
        (3, "a method is a name or a mapping"),
        (Ties, "a method is a name or a mapping"),
        ({"name": ["ties"]}, "there is no method"),
    ],
    ids=str,
)
def test_wrong_settings_are_one_sentence(option, says):
    with pytest.raises(WeftError, match=says) as caught:
        make_method(option)
    assert "\n" not in str(caught.value)


def test_methods_for_adapters_refuse_checkpoints():
    with pytest.raises(WeftError, match="method 'lego' merges adapters only"):
        merged("lego", models(2))


@pytest.mark.parametrize(
    ("weights", "dtype", "says"),
    [
        ([2.0, 0.0], torch.float16, "tensor 'x' merges to 120000, which float16 can't hold"),
        ([1e39, 1.0], torch.float32, "tensor 'x': the weights .* are too large"),
        ([float("nan"), 1.0], torch.float32, "tensor 'x': the weights .* not finite"),
    ],
    ids=str,
)
def test_what_no_dtype_holds_is_an_error_in_memory_too(weights, dtype, says):
    parts = [{"x": torch.tensor([6e4, 1.0], dtype=dtype)}, {"x": torch.ones(2, dtype=dtype)}]
    with pytest.raises(WeftError, match=says):
        merged("linear", parts, weights)


@pytest.mark.parametrize("method", ["ties", "localize_and_stitch", "sce"])
def test_a_weight_too_small_for_float32_gives_no_nan(method):
    base = {"x": torch.zeros(2)}
    parts = [{"x": torch.tensor([1.0, 0.0])}, {"x": torch.tensor([0.0, -2.0])}]
    found = merged({"name": method, "density": 1}, parts, [1.0, 1e-50], base)
    assert_close(found, {"x": np.array([1.0, 0.0])})


def test_a_merge_needs_a_thread():
    with pytest.raises(WeftError, match="threads must be at least 1, not 0"):
        merged("linear", models(2), threads=0)
