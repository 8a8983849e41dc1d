"""Methods that mergekit has, against plain float64 versions of what they are said to do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_cases import assert_close, each_apart, merged, models, on, small_blocks, taus
from random_adapters import adapter

from weft.errors import WeftError
from weft.merging import merge_adapters

SHAPES = {"bias": (5,), "tall": (9, 2), "wide": (3, 7)}


def rows_apart(parts, base, function):
    """A function of the parts' [K, rows, columns] (or [K, n] of a vector) for every tensor."""
    found = {}
    for name in parts[0]:
        stack = np.stack([(p[name] - base[name]).double().numpy() for p in parts])
        found[name] = function(stack).reshape(-1)
    return found


def on_an_arc(one, other, t, axis):
    """Slerp of vectors along an axis, or of the whole (None)."""
    keep = axis is not None
    lengths = [np.sqrt((x * x).sum(axis, keepdims=keep)) for x in (one, other)]
    cosine = (one * other).sum(axis, keepdims=keep) / np.maximum(lengths[0] * lengths[1], 1e-14)
    angle = np.arccos(np.clip(cosine, -1, 1))
    straight = 1 - cosine**2 <= 1e-16
    sine = np.where(straight, 1, np.sin(angle))
    first = np.where(straight, 1 - t, np.sin((1 - t) * angle) / sine)
    second = np.where(straight, t, np.sin(t * angle) / sine)
    return first * one + second * other


@pytest.mark.parametrize(("along", "axis"), [("tensor", None), ("rows", -1), ("columns", 0)])
@pytest.mark.parametrize("weights", [[0.5, 0.5], [3.0, 1.0], [0.0, 1.0], [1.0, -1.0]])
def test_nuslerp_turns_task_vectors(along, axis, weights, monkeypatch):
    small_blocks(monkeypatch)
    base, *parts = models(3, 1, SHAPES)
    t = 0.5 if sum(weights) == 0 else weights[1] / sum(weights)
    wanted = rows_apart(parts, base, lambda tau: on_an_arc(tau[0], tau[1], t, axis))
    found = merged({"name": "nuslerp", "along": along}, parts, weights, base)
    assert_close(found, on(base, wanted, base), 4e-6)


def test_nuslerp_of_a_part_that_did_not_move_is_an_arc_from_zero():
    base, one, _ = models(3)
    found = merged("nuslerp", [base, one], [0.5, 0.5], base)
    half = np.sin(np.pi / 4)
    wanted = {n: half * t[0] for n, t in taus([one], base).items()}
    assert_close(found, on(base, wanted, base))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.lists(st.sampled_from([0.2, 0.5, 1.0]), min_size=2, max_size=4),
       st.booleans())  # fmt: skip
def test_multislerp_goes_through_the_tangent_space_at_the_mean(seed, weights, normalize):
    base, *parts = models(len(weights) + 1, seed)

    def naive(tau):
        w = np.array(weights) / (sum(weights) if normalize else 1)
        lengths = np.linalg.norm(tau, axis=1)
        units = tau / lengths[:, None]
        mean = w @ units
        mean /= np.linalg.norm(mean)
        tangents = units - (units @ mean)[:, None] * mean
        step = w @ tangents
        size = np.linalg.norm(step) + 1e-8
        return (mean * np.cos(size) + step * np.sin(size) / size) * (w @ lengths)

    found = merged({"name": "multislerp", "normalize": normalize}, parts, weights, base)
    assert_close(found, on(base, each_apart(taus(parts, base), naive), base), 1e-5)


def test_multislerp_of_opposite_parts_is_their_weighted_sum():
    one = {"x": torch.tensor([3.0, 4.0])}
    found = merged("multislerp", [one, {"x": -one["x"]}], [0.5, 0.5])
    assert found["x"].tolist() == [0, 0]


@pytest.mark.parametrize("t", [0.0, 1e-7, 0.05, 0.5, 100.0, -0.05])
def test_nearswap_moves_no_weight_farther_than_t(t):
    base, part = models(2)
    part["wide"][0] = base["wide"][0] + 5e-7

    def naive(tau):
        size = np.maximum(np.abs(tau[0]), 1e-6)
        return np.sign(t or 1) * np.clip(abs(t) / size, 0, 1) * tau[0]

    found = merged("nearswap", [part], [t], base)
    assert_close(found, on(base, each_apart(taus([part], base), naive), base), 4e-7)
    with pytest.raises(WeftError, match="'nearswap' merges 1 part into its base, not 2"):
        merged("nearswap", [part, part], None, base)


def test_arcee_fusion_swaps_in_what_matters_most(monkeypatch):
    base, part = models(2, 3, {"bias": (11,), "wide": (9, 20)})
    part = {n: base[n] + t**5 / 50 for n, t in part.items()}  # few large changes

    def softmax(x):
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True) + 1e-8

    wanted, swapped = {}, 0
    for name in base:
        theta, origin = (m[name].double().numpy() for m in (part, base))
        p, q = softmax(theta), softmax(origin)
        scores = np.abs(theta - origin) * (p * np.log(p / q)).sum(-1, keepdims=True)
        ordered = np.sort(scores.ravel())
        first, median, third = (ordered[int(q * (len(ordered) - 1))] for q in (0.25, 0.5, 0.75))
        mask = scores >= median + 1.5 * (third - first)
        wanted[name] = origin + (theta - origin) * mask
        swapped += mask.sum()
    assert 5 < swapped < 60
    for size in (1 << 18, 40):
        small_blocks(monkeypatch, size)
        assert_close(merged("arcee_fusion", [part], None, base), wanted)
    with pytest.raises(WeftError, match="'arcee_fusion' is for checkpoints, not for adapters"):
        merge_adapters([adapter(1)], "arcee_fusion")


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.sampled_from([0.0, 0.1, 0.5]), st.sampled_from([0.0, 1.0]))
def test_ram_averages_only_what_several_parts_changed(seed, boost, epsilon):
    base, *parts = models(4, seed)
    thinned = models(4, seed + 100)
    parts = [{n: torch.where(mask[n] > 0.4, p[n], base[n]) for n in base}
             for p, mask in zip(parts, thinned, strict=False)]  # fmt: skip
    weights = np.array([1.0, 0.5, 2.0])

    def naive(tau):
        mask = np.abs(tau) > epsilon
        count = mask.sum(0)
        shared, alone = ((mask & test).sum(1) for test in (count > 1, count == 1))
        total = np.zeros(tau.shape[1])
        for k, row in enumerate(tau):
            factor = 1 + boost * min(shared[k] / max(alone[k], epsilon or 1e-5), 0.2)
            total += weights[k] * np.where(mask[k] & (count == 1), factor * row, 0)
            total += weights[k] * np.where(mask[k] & (count > 1), row / np.maximum(count, 1), 0)
        return total

    option = {"name": "ram", "boost": boost, "epsilon": epsilon}
    found = merged(option, parts, list(weights), base)
    assert_close(found, on(base, each_apart(taus(parts, base), naive), base), 4e-6)


def test_model_stock_may_follow_its_formula_away_from_the_mean():
    base = {"x": torch.zeros(4)}
    parts = [{"x": torch.tensor([1.0, 0, 0, 0])}, {"x": torch.tensor([-0.5, 1, 0, 0])}]
    cosine = -0.5 / np.sqrt(1.25)
    t = 2 * cosine / (1 + cosine)
    found = merged({"name": "model_stock", "opposed": "formula"}, parts, None, base)
    assert_close(found, {"x": t * np.array([0.25, 0.5, 0, 0])})
    assert not merged("model_stock", parts, None, base)["x"].any()
    parts[1] = {"x": -parts[0]["x"]}  # the formula has no value
    assert not merged({"name": "model_stock", "opposed": "formula"}, parts, None, base)["x"].any()


def test_task_arithmetic_can_normalise_and_scale():
    base, *parts = models(3)
    found = merged(
        {"name": "task_arithmetic", "normalize": True, "scale": 0.5}, parts, [3.0, 1.0], base
    )
    wanted = each_apart(taus(parts, base), lambda tau: 0.5 * (0.75 * tau[0] + 0.25 * tau[1]))
    assert_close(found, on(base, wanted, base))


def test_sce_counts_parts_alike_where_they_hardly_moved():
    base, *parts = models(3)
    near = [{n: base[n] + 1e-2 * k * (p[n] - base[n]) for n in base}
            for k, p in enumerate(parts, start=1)]  # fmt: skip

    def naive(tau):
        sign = np.where(tau.sum(0) >= 0, 1, -1)
        agrees = tau * sign > 0
        return (tau * agrees).sum(0) / np.maximum(agrees.sum(0), 1)

    found = merged({"name": "sce", "density": 1, "alike": 1.0}, near, None, base)
    assert_close(found, on(base, each_apart(taus(near, base), naive), base))
    weighed = merged({"name": "sce", "density": 1}, near, None, base)
    assert not torch.allclose(weighed["wide"], found["wide"], atol=1e-6)


def test_sce_selects_exactly_k_of_those_that_changed():
    parts = [{"x": torch.tensor([1.0, 1, 1, 5, 0, 0])}, {"x": torch.tensor([0.0, 0, 0, 5, 0, 0])}]
    option = {"name": "sce", "density": 0.7, "among": "changed", "keep": "exact", "alike": 9.0}
    found = merged(option, parts)["x"]
    assert found.tolist() == [1, 1, 0, 0, 0, 0]  # int(.7 · 3) of the three that differ
    assert not merged(option | {"density": 0.3}, parts)["x"].any()  # int(.3 · 3) is none
