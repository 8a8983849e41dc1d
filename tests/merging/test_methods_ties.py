"""Methods that keep entries by magnitude, against naive versions of their papers' algorithms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_cases import (
    as_one,
    assert_close,
    assert_same_bits,
    each_apart,
    merged,
    models,
    on,
    small_blocks,
    taus,
)

from weft.errors import WeftError


def kept(tau, least_place):
    """Entries not below the one at this place (from 0) in order of magnitude."""
    cut = np.sort(np.abs(tau), axis=1)[:, least_place, None]
    return np.where(np.abs(tau) >= cut, tau, 0)


def elect_and_average(tau, weights, votes, normalize=True, majority=None):
    sign = np.sign(votes.sum(0))
    most = np.sign(sign.sum()) if majority is None else majority
    sign[sign == 0] = most if most else -1
    agrees = (tau * sign > 0) * weights[:, None]
    total = (agrees * tau).sum(0)
    mass = agrees.sum(0)
    return np.divide(total, mass, out=np.zeros_like(total), where=mass > 0) if normalize else total


def ties(tau, weights, density=0.2, elect="unweighted", normalize=True, majority=None):
    """Algorithm 1; the authors keep what is not below the (n - int(density n))-th smallest."""
    n = tau.shape[1]
    tau = tau * np.sign(weights)[:, None]
    tau, weights = tau[weights != 0], np.abs(weights[weights != 0])
    small = kept(tau, max(0, n - int(density * n) - 1))
    votes = small * weights[:, None] if elect == "weighted" else small
    return elect_and_average(small, weights, votes, normalize, majority)


weight = st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0, 1.5])
options = st.fixed_dictionaries(
    {
        "density": st.sampled_from([0.05, 0.2, 0.5, 0.9, 1.0]),
        "elect": st.sampled_from(["unweighted", "weighted"]),
        "normalize": st.booleans(),
    }
)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 99),
    st.lists(weight, min_size=1, max_size=4).filter(any),
    options,
    st.sampled_from(["global", "tensor"]),
    st.booleans(),
)
def test_ties_is_the_papers_algorithm(seed, weights, option, trim, whole):
    base, *parts = models(len(weights) + 1, seed)
    if whole:  # many ties among magnitudes, and sums of zero
        base, *parts = [{n: t.round() for n, t in m.items()} for m in (base, *parts)]
    tau, w = taus(parts, base), np.array(weights)
    if trim == "global":
        wanted = as_one(tau, lambda t: ties(t, w, **option))
    else:
        majority = 1
        wanted = each_apart(tau, lambda t: ties(t, w, **option, majority=majority))
    given_options = {
        **option,
        "trim": trim,
        "zeros": "majority" if trim == "global" else "positive",
    }
    with pytest.MonkeyPatch.context() as patch:
        small_blocks(patch)
        found = merged({"name": "ties", **given_options}, parts, weights, base)
    assert_close(found, on(base, wanted, base), 4e-6)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 99),
    st.lists(weight, min_size=1, max_size=4),
    st.sampled_from([0.1, 0.5, 1.0]),
    st.booleans(),
)
def test_ties_as_in_mmgrid_multiplies_weights_in_before_trimming(seed, weights, density, whole):
    base, *parts = models(len(weights) + 1, seed)
    if whole:
        base, *parts = [{n: t.round() for n, t in m.items()} for m in (base, *parts)]

    def naive(tau):
        tau = tau.astype(np.float32) * np.array(weights, dtype=np.float32)[:, None]
        tau = tau.astype(np.float64)[np.array(weights) != 0]
        if not len(tau):
            return np.zeros(tau.shape[1])
        n = tau.shape[1]
        small = kept(tau, max(0, n - int(density * n) - 1))
        total = elect_and_average(small, np.ones(len(tau)), small, normalize=False)
        signs = np.sign(small)
        return np.where(np.abs(signs.sum(0)) == len(tau), total / len(tau), total)

    option = {"name": "ties", "variant": "mmgrid", "density": density, "scale": 0.5}
    wanted = as_one(taus(parts, base), lambda tau: 0.5 * naive(tau))
    assert_close(merged(option, parts, weights, base), on(base, wanted, base), 4e-6)


def test_ties_by_hand():
    a = {"x": torch.tensor([3.0, -2, 1, 0, 4])}
    b = {"x": torch.tensor([-1.0, -4, 1, 0, -4])}
    found = merged({"name": "ties", "density": 1}, [a, b])["x"]
    # The sums 2, -6, 2, 0, 0: two positive, one negative, so zeros count as positive.
    assert found.tolist() == [3, -3, 1, 0, 4]


def test_ties_of_parts_without_conflict_is_their_mean_and_of_one_part_itself():
    base, *parts = models(4)
    parts = [{n: base[n] + t.abs() + 0.1 for n, t in part.items()} for part in parts]
    mean = {n: t.mean(0) for n, t in taus(parts, base).items()}
    assert_close(merged({"name": "ties", "density": 1}, parts, base=base), on(base, mean, base))
    same = merged({"name": "ties", "density": 1}, parts[:1] * 3, [0.3, 0.3, 0.3], base)
    assert_close(same, {n: t.double().numpy() for n, t in parts[0].items()}, 5e-7)


@pytest.mark.parametrize("method", ["ties", "pcb", "sce", "localize_and_stitch"])
def test_a_part_of_negative_weight_is_its_opposite(method):
    base, one, other = models(3)
    turned = {n: 2 * base[n].double() - other[n].double() for n in base}
    parts = [{n: t.double() for n, t in m.items()} for m in (one, other)]
    found = merged(method, parts, [0.7, -0.4], base)
    wanted = merged(method, [parts[0], turned], [0.7, 0.4], base)
    assert_close(found, {n: t.double().numpy() for n, t in wanted.items()})


@pytest.mark.parametrize(
    "method", ["ties", "pcb", "sce", "localize_and_stitch", "magnitude_prune", "dare", "della"]
)
def test_a_part_of_weight_zero_takes_no_part(method):
    base, one, other, third = models(4)
    with_it = merged(method, [one, other, third], [0.7, 0, 0.4], base)
    without = merged(method, [one, third], [0.7, 0.4], base, labels=["part0", "part2"])
    assert_same_bits(with_it, without)
    assert_same_bits(merged(method, [one, other], [0, 0], base), base)


def top(tau, density):
    n = tau.shape[1]
    return kept(tau, n - max(1, int(density * n)))


@pytest.mark.parametrize("density", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("trim", ["global", "tensor"])
def test_magnitude_prune_sums_and_localize_and_stitch_averages_the_largest(
    density, trim, monkeypatch
):
    small_blocks(monkeypatch)
    base, *parts = models(4)
    weights, over = np.array([0.5, -1, 2]), as_one if trim == "global" else each_apart
    option = {"density": density, "trim": trim}

    pruned = over(taus(parts, base), lambda t: weights @ top(t, density))
    found = merged({"name": "magnitude_prune", **option}, parts, weights, base)
    assert_close(found, on(base, pruned, base))

    def stitch(tau):
        large = top(tau, density)
        mass = np.abs(weights) @ (large != 0)
        return np.divide(weights @ large, mass, out=np.zeros_like(mass), where=mass > 0)

    found = merged({"name": "localize_and_stitch", **option}, parts, weights, base)
    assert_close(found, on(base, over(taus(parts, base), stitch), base))


def test_stitching_counts_no_zeros_as_kept():
    a, b = {"x": torch.tensor([2.0, 0, 0, 0])}, {"x": torch.tensor([4.0, 0, 6, 0])}
    found = merged({"name": "localize_and_stitch", "density": 0.75}, [a, b])
    assert found["x"].tolist() == [3, 0, 6, 0]


@pytest.mark.parametrize("trim", ["global", "tensor"])
@pytest.mark.parametrize(("density", "gamma"), [(0.5, 0.2), (0.9, 0.3), (1.0, 0.1), (0.3, 0.0)])
def test_breadcrumbs_keeps_the_middle(density, gamma, trim, monkeypatch):
    small_blocks(monkeypatch)
    base, *parts = models(3)

    def naive(tau):
        n = tau.shape[1]
        keep = max(1, int(density * n))
        above = min(int(gamma * n), n - keep)
        found = np.zeros_like(tau)
        for k, row in enumerate(tau):
            places = np.argsort(np.abs(row))[n - above - keep : n - above]
            found[k, places] = row[places]
        return 0.3 * found.sum(0)

    over = as_one if trim == "global" else each_apart
    option = {"name": "breadcrumbs", "density": density, "gamma": gamma, "trim": trim}
    found = merged(option, parts, [0.3, 0.3], base)
    assert_close(found, on(base, over(taus(parts, base), naive), base))


def test_breadcrumbs_then_ties_elects_among_what_is_left():
    base, *parts = models(4)
    then = {"name": "ties", "density": 0.5, "trim": "tensor", "zeros": "positive"}
    found = merged(
        {"name": "breadcrumbs", "density": 0.8, "gamma": 0.1, "then": then}, parts, base=base
    )

    def naive(tau):
        n = tau.shape[1]
        keep = int(0.8 * n)
        above = min(int(0.1 * n), n - keep)
        crumbs = np.zeros_like(tau)
        for k, row in enumerate(tau):
            places = np.argsort(np.abs(row))[n - above - keep : n - above]
            crumbs[k, places] = row[places]
        return ties(crumbs, np.ones(len(tau)), 0.5, majority=1)

    assert_close(found, on(base, each_apart(taus(parts, base), naive), base))


@pytest.mark.parametrize("density", [0, -0.1, 1.01, float("nan")])
def test_a_density_out_of_bounds_is_an_error_that_names_it(density):
    with pytest.raises(WeftError, match="method 'ties': density"):
        merged({"name": "ties", "density": density}, models(2))


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 99),
    st.lists(st.sampled_from([-1.0, 0.0, 0.3, 1.0, 2.0]), min_size=1, max_size=4),
    st.sampled_from([0.1, 0.5, 1.0]),
    st.booleans(),
)
def test_ties_taken_apart_weighs_what_each_part_gave_to_the_mean(seed, weights, density, normalize):
    base, *parts = models(len(weights) + 1, seed)

    def naive(tau):
        n = tau.shape[1]
        small = kept(tau, max(0, n - int(density * n) - 1))
        sign = np.sign(small.sum(0))
        most = np.sign(sign.sum())
        sign[sign == 0] = most if most else -1
        agrees = small * sign > 0
        count = np.maximum(agrees.sum(0), 1) if normalize else 1
        return (np.array(weights)[:, None] * np.where(agrees, small, 0) / count).sum(0)

    option = {"name": "ties", "weigh": "after", "density": density, "normalize": normalize}
    wanted = as_one(taus(parts, base), naive)
    assert_close(merged(option, parts, weights, base), on(base, wanted, base), 4e-6)
    ones = [1.0] * len(parts)
    plain = merged(option | {"weigh": "within"}, parts, ones, base)
    assert_close(merged(option, parts, ones, base), plain, 4e-6)  # w = 1 is TIES itself
