"""`keep: exact`, exactly int(density · n) entries whatever ties, and densities of single parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_cases import as_one, assert_close, each_apart, merged, models, on, small_blocks, taus

from weft.errors import WeftError
from weft.merging.engine.source import Memory
from weft.merging.engine.stream import Merge, merge_in_memory
from weft.merging.methods import make_method

SORTED = {"bias": (5,), "tall": (9, 2), "wide": (3, 7)}  # names in alphabetical order


def whole(seed: int, count: int) -> list[dict[str, torch.Tensor]]:
    """Small whole numbers: most magnitudes tie with others."""
    return [{n: (2 * t).round() for n, t in m.items()} for m in models(count, seed, SORTED)]


def first_largest(row: np.ndarray, density: float) -> np.ndarray:
    """A descending stable sort, cut at k."""
    if density <= 0:
        return np.zeros_like(row)
    k = max(1, int(density * len(row)))
    places = np.argsort(-np.abs(row), kind="stable")[:k]
    kept = np.zeros_like(row)
    kept[places] = row[places]
    return kept


def consensus(tau: np.ndarray, weights: np.ndarray, densities: list[float]) -> np.ndarray:
    """mergekit's ties with `normalize`: weighted votes, zero counts as positive."""
    kept = np.stack([first_largest(row, d) for row, d in zip(tau, densities, strict=True)])
    voted = weights[:, None] * kept
    sign = np.where(voted.sum(0) >= 0, 1.0, -1.0)
    agrees = np.sign(voted) == sign
    mass = (weights[:, None] * agrees).sum(0)
    return (voted * agrees).sum(0) / np.where(mass == 0, 1, mass)


CONSENSUS = {"name": "ties", "elect": "weighted", "zeros": "positive"}


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 99),
    st.sampled_from([0.05, 0.2, 0.5, 0.77, 1.0]),
    st.sampled_from(["global", "tensor"]),
)
def test_exactly_k_stay_and_of_equal_ones_the_first(seed: int, density: float, trim: str) -> None:
    base, *parts = whole(seed, 3)
    weights = np.array([0.5, 0.75])
    over = as_one if trim == "global" else each_apart
    with pytest.MonkeyPatch.context() as patch:
        small_blocks(patch)
        option = {"density": density, "trim": trim, "keep": "exact"}
        found = merged({**CONSENSUS, **option}, parts, list(weights), base)
        wanted = over(taus(parts, base), lambda tau: consensus(tau, weights, [density] * 2))
        assert_close(found, on(base, wanted, base), 4e-6)

        found = merged({"name": "magnitude_prune", **option}, parts, list(weights), base)
        sums = over(
            taus(parts, base),
            lambda tau: weights @ np.stack([first_largest(row, density) for row in tau]),
        )
        assert_close(found, on(base, sums, base), 4e-6)


def test_the_number_of_entries_is_what_the_density_says() -> None:
    part = {"x": torch.ones(3, 7)}
    for keep, density, count in (("exact", 0.3, 6), ("exact", 0.001, 1), ("ties", 0.3, 21)):
        found = merged({"name": "ties", "density": density, "keep": keep}, [part])
        assert int(found["x"].count_nonzero()) == count
    found = merged({"name": "localize_and_stitch", "density": 0.5, "keep": "exact"}, [part])
    assert found["x"].flatten().tolist() == [1.0] * 10 + [0.0] * 11


def test_positions_go_on_from_tensor_to_tensor_in_the_order_of_names() -> None:
    part = {"b": torch.ones(4), "a": torch.ones(3)}
    found = merged({"name": "ties", "density": 5 / 7, "keep": "exact"}, [part])
    assert found["a"].tolist() == [1, 1, 1] and found["b"].tolist() == [1, 1, 0, 0]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.sampled_from([0.3, 0.5, 0.9]), st.sampled_from([0.0, 0.1, 0.3]))
def test_breadcrumbs_cut_a_stable_sort_at_both_ends(
    seed: int, density: float, gamma: float
) -> None:
    base, *parts = whole(seed, 2)

    def naive(tau: np.ndarray) -> np.ndarray:
        n = tau.shape[1]
        keep = int(density * n)
        above = min(int(gamma * n), n - keep)
        found = np.zeros(n)
        places = np.argsort(np.abs(tau[0]), kind="stable")[n - above - keep : n - above]
        found[places] = tau[0][places]
        return found

    option = {"name": "breadcrumbs", "density": density, "gamma": gamma, "keep": "exact"}
    with pytest.MonkeyPatch.context() as patch:
        small_blocks(patch)
        found = merged(option, parts, [1.0], base)
    assert_close(found, on(base, each_apart(taus(parts, base), naive), base))


OWN = {"bias": (0.4, 1.0), "tall": (0.5, 0.0), "wide": (1.0, 0.3)}


def test_every_part_has_a_density_of_its_own_in_every_tensor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small_blocks(monkeypatch)
    base, *parts = models(3, 4, SORTED)
    weights = np.array([0.5, 0.75])
    method = make_method({**CONSENSUS, "trim": "tensor", "keep": "exact"})

    def made(order: list[int]) -> dict[str, torch.Tensor]:
        merge = Merge(
            [Memory(f"part{k}", parts[k]) for k in order],
            method,
            lambda _: weights[order].tolist(),
            Memory("base", base),
            lambda name: {"density": [OWN[name][k] for k in order]},
        )
        return merge_in_memory(merge, threads=1)

    tau = taus(parts, base)
    wanted = {name: consensus(tau[name], weights, list(OWN[name])) for name in tau}
    found = made([0, 1])
    assert_close(found, on(base, wanted, base), 4e-6)
    turned = made([1, 0])
    assert all(torch.equal(found[name], turned[name]) for name in found)


def test_own_options_reach_the_method_within(monkeypatch: pytest.MonkeyPatch) -> None:
    small_blocks(monkeypatch)
    part = {"x": torch.arange(1.0, 21.0)}
    method = make_method({"name": "dare", "drop_rate": 0.0, "then": "magnitude_prune"})
    own = {"density": [0.25], "drop_rate": [0.0]}
    merge = Merge([Memory("a", part)], method, lambda _: [1.0], None, lambda _: own)
    assert int(merge_in_memory(merge, threads=1)["x"].count_nonzero()) == 5
    own = {"density": [1.0], "drop_rate": [1.0]}
    assert not merge_in_memory(merge.__class__(merge.parts, method, lambda _: [1.0], None,
                                               lambda _: own), threads=1)["x"].any()  # fmt: skip


@pytest.mark.parametrize(
    ("method", "own", "words"),
    [
        ("linear", lambda _: {"density": [0.5]}, "method 'linear' has no density of single parts"),
        (
            "ties",
            lambda name: {"density": [0.5 if name == "a" else 0.6]},
            "density differs between tensors, which needs trim: tensor",
        ),
    ],
)
def test_an_own_option_that_makes_no_sense_is_refused(method, own, words) -> None:
    part = Memory("p", {"a": torch.ones(2), "b": torch.ones(2)})
    with pytest.raises(WeftError, match=words):
        merge_in_memory(Merge([part], make_method(method), lambda _: [1.0], None, own))


@pytest.mark.parametrize("trim", ["tensor", "global"])
def test_what_is_left_can_be_scaled_to_the_norm_that_it_had(
    trim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_blocks(monkeypatch)
    base, *parts = models(3, 2, SORTED)
    tau = taus(parts, base)
    over = as_one if trim == "global" else each_apart
    kept = over(tau, lambda t: np.stack([first_largest(row, 0.4) for row in t]))
    scaled = {
        n: k * (np.abs(tau[n]).sum(1) / np.maximum(np.abs(k).sum(1), 1e-30))[:, None]
        for n, k in kept.items()
    }
    wanted = {n: consensus(s, np.array([0.5, 0.75]), [1.0, 1.0]) for n, s in scaled.items()}
    option = {"density": 0.4, "trim": trim, "keep": "exact", "rescale": "l1"}
    found = merged({**CONSENSUS, **option}, parts, [0.5, 0.75], base)
    assert_close(found, on(base, wanted, base), 4e-6)
    crumbs = {"name": "breadcrumbs", "density": 0.4, "gamma": 0.0, **{k: option[k] for k in
              ("trim", "keep", "rescale")}, "then": {**CONSENSUS, "density": 1.0}}  # fmt: skip
    assert_close(merged(crumbs, parts, [0.5, 0.75], base), on(base, wanted, base), 4e-6)


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.75, 0.75, 0.75], [0.7, 0.2, -0.4]])
def test_pefts_ties_is_weighted_after_the_mean(weights: list[float]) -> None:
    from peft.utils.merge_utils import ties

    parts = models(3, 5, SORTED)
    option = {"keep": "exact", "zeros": "positive", "weigh": "after"}
    found = merged({"name": "ties", "density": 0.4, "trim": "tensor", **option}, parts, weights)
    for name in SORTED:
        wanted = ties([part[name] for part in parts], torch.tensor(weights), 0.4)
        torch.testing.assert_close(found[name], wanted)


def test_votes_in_few_bits_are_more_often_level() -> None:
    parts = [{"x": torch.tensor([1.0])}, {"x": torch.tensor([-1.0004])}]
    for votes, wanted in (("float32", -1.0004), ("float16", 1.0)):
        option = {**CONSENSUS, "density": 1, "votes": votes}
        assert merged(option, parts, [1.0, 1.0])["x"].tolist() == [pytest.approx(wanted)]
