"""DARE and DELLA: which entries are dropped, and that what is left has the right size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_cases import assert_close, assert_same_bits, merged, models, on, small_blocks, taus

from weft.errors import WeftError
from weft.merging.engine.masks import COARSE, STEPS, draws

SUM = {"name": "task_arithmetic"}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 70), st.integers(1, 40))
def test_numbers_depend_on_the_position_alone_wherever_a_block_begins(start, count):
    whole = draws(3, "layer", "part", 0, start + count)
    np.testing.assert_array_equal(draws(3, "layer", "part", start, count), whole[start:])


def test_numbers_differ_by_seed_tensor_and_part():
    keys = [(0, "a", "b"), (1, "a", "b"), (0, "ab", ""), (0, "a", "c"), (0, "b", "b")]
    drawn = [draws(*key, 0, 64).tolist() for key in keys]
    assert all(a != b for i, a in enumerate(drawn) for b in drawn[:i])


def test_numbers_are_those_of_pcg64_seeded_by_sha256():
    from hashlib import sha256

    seed = int.from_bytes(sha256(b"(5, 'layer', 'part')").digest(), "little")
    raw = np.random.PCG64DXSM(seed).random_raw(12)
    assert draws(5, "layer", "part", 32, 16).tolist() == raw.view(np.uint16)[32:].tolist()


@pytest.mark.parametrize("steps", [COARSE, STEPS])
def test_numbers_are_uniform_and_neighbours_unrelated(steps):
    # The middle of its step, so that the mean is a half.
    drawn = (draws(0, "layer", "part", 0, 1 << 20, steps).astype(np.float64) + 0.5) / steps
    assert abs(drawn.mean() - 0.5) < 5 * np.sqrt(1 / 12 / 2**20)
    counts = np.histogram(drawn, 64, (0, 1))[0]
    assert ((counts - 2**14) ** 2 / 2**14).sum() < 63 + 6 * np.sqrt(2 * 63)
    assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 5 / 2**10


@pytest.mark.parametrize("rescale", ["exact", "l1", "none"])
@pytest.mark.parametrize("rate", [0.25, 0.3, 0.9])
def test_dare_is_the_papers_formula_on_masks_that_anyone_can_draw(rate, rescale, monkeypatch):
    small_blocks(monkeypatch)
    base, *parts = models(3)
    weights, wanted = [0.7, -0.4], {}
    of = COARSE if rate == 0.25 else STEPS
    steps = round(rate * of)
    for name, tau in taus(parts, base).items():
        total = 0.0
        for k, row in enumerate(tau):
            left = row * (draws(11, name, f"part{k}", 0, row.size, of) >= steps)
            factor = {
                "exact": of / (of - steps),
                "l1": np.abs(row).sum() / np.abs(left).sum() if left.any() else 1,
                "none": 1,
            }[rescale]
            total = total + weights[k] * factor * left
        wanted[name] = total
    option = {"name": "dare", "drop_rate": rate, "seed": 11, "rescale": rescale, "then": SUM}
    assert_close(merged(option, parts, weights, base), on(base, wanted, base), 4e-6)


def test_dare_and_della_keep_the_expected_value():
    zero = {"x": torch.zeros(64, 256)}
    part = {"x": torch.linspace(-1, 2, 64 * 256).view(64, 256).sin()}
    then = {"name": "linear"}
    for method in ({"name": "dare", "drop_rate": 0.9}, {"name": "della", "drop_rate": 0.7}):
        total, count = torch.zeros(64, 256, dtype=torch.float64), 200
        for seed in range(count):
            option = {**method, "seed": seed, "then": then}
            total += merged(option, [part], [1.0], zero)["x"].double()
        error = (total / count - part["x"].double()) / part["x"].abs().clamp_min(0.05)
        # Each entry's relative spread is √(p/(1-p)/count) ≤ 0.22.
        assert abs(float(error.mean())) < 5 * 0.22 / 128
        assert float(error.abs().max()) < 6 * 0.22


def test_the_share_that_is_dropped_is_the_rate():
    part = {"x": torch.ones(1 << 18)}
    for rate in (0.1, 0.5, 0.99):
        option = {"name": "dare", "drop_rate": rate, "then": {"name": "linear"}}
        share = float((merged(option, [part])["x"] == 0).double().mean())
        assert share == pytest.approx(rate, abs=5 * np.sqrt(rate * (1 - rate) / 2**18))


@pytest.mark.parametrize("method", ["dare", "della"])
def test_a_rate_of_zero_drops_nothing_and_a_rate_of_one_is_refused(method):
    base, *parts = models(3)
    then = {"name": "ties", "density": 0.5}
    plain = merged(then, parts, base=base)
    assert_same_bits(
        merged({"name": method, "drop_rate": 0, "then": then}, parts, base=base), plain
    )
    with pytest.raises(WeftError, match=f"method '{method}': drop_rate"):
        merged({"name": method, "drop_rate": 1.0}, parts, base=base)


def test_masks_go_with_the_label_not_with_the_place():
    base, *parts = models(4)
    labels = ["red", "green", "blue"]
    found = merged("dare", parts, [0.1, 0.2, 0.3], base, labels=labels)
    turned = merged("dare", parts[::-1], [0.3, 0.2, 0.1], base, labels=labels[::-1])
    assert_same_bits(found, turned)
    assert not torch.equal(merged("dare", parts, [0.1, 0.2, 0.3], base)["tall"], found["tall"])


@pytest.mark.parametrize("rescale", ["exact", "l1", "none"])
def test_della_drops_by_rank_within_a_row(rescale, monkeypatch):
    small_blocks(monkeypatch)
    base, *parts = models(3)
    rate, window, weights = 0.4, 0.6, [0.7, -0.4]
    parts[0]["wide"][1] = base["wide"][1]  # equal magnitudes: the later ones count as larger
    wanted = {}
    for name, tau in taus(parts, base).items():
        total = 0.0
        for k, row in enumerate(tau):
            rows = row.reshape(-1, base[name].shape[-1])
            n = rows.shape[1]
            ascending = np.argsort(np.abs(rows), axis=1, kind="stable")
            exceeded_by = n - 1 - np.argsort(ascending, axis=1)
            p = rate - window / 2 + window * (exceeded_by + 0.5) / n
            np.testing.assert_allclose(p.mean(1), rate)
            steps = np.rint(p * STEPS).ravel()
            left = row * (draws(0, name, f"part{k}", 0, row.size) >= steps)
            if rescale == "exact":
                left = left * STEPS / (STEPS - steps)
            if rescale == "l1" and left.any():
                left = left * np.abs(row).sum() / np.abs(left).sum()
            total = total + weights[k] * left
        wanted[name] = total
    option = {"name": "della", "drop_rate": rate, "window": window, "rescale": rescale, "then": SUM}
    assert_close(merged(option, parts, weights, base), on(base, wanted, base), 4e-6)


def test_a_window_that_leaves_probabilities_out_of_bounds_is_refused():
    with pytest.raises(WeftError, match="drop_rate ± window/2"):
        merged({"name": "della", "drop_rate": 0.9, "window": 0.3}, models(2))


def test_dare_then_ties_trims_what_dare_has_left():
    base, *parts = models(4)
    masked = []
    for k, part in enumerate(parts):
        row = {}
        for name, tensor in part.items():
            keep = draws(0, name, f"part{k}", 0, tensor.numel(), COARSE) >= COARSE // 2
            tau = (tensor - base[name]) * torch.from_numpy(keep).view(tensor.shape) * 2
            row[name] = tau
        masked.append(row)
    for then in ({"name": "ties", "density": 0.3}, {"name": "pcb"}, {"name": "model_stock"}):
        found = merged({"name": "dare", "drop_rate": 0.5, "then": then}, parts, base=base)
        alone = merged(then, masked)
        assert_close(found, {n: (base[n] + t).double().numpy() for n, t in alone.items()}, 1e-6)


@pytest.mark.parametrize("inner", ["dare", "della"])
def test_dropping_within_dropping_draws_anew(inner):
    part = {"x": torch.ones(1, 40_000)}
    found = merged({"name": "dare", "then": {"name": inner, "then": SUM}}, [part], [1.0])["x"]
    assert abs(found.mean() - 1) < 5 * np.sqrt(3 / 40_000)
