"""Linear merges of adapters against their formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_adapters import MODULES, adapter, summed

from weft.adapters import Adapter, Factors
from weft.errors import WeftError
from weft.merging import merge_adapters


def scoring(seed: int, said: Any) -> Adapter:
    """An adapter whose manifest says how it scores items."""
    made = adapter(seed)
    return Adapter(made.factors, made.manifest | {"recommender": said})


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 99), st.integers(1, 4), st.floats(-2, 2, allow_subnormal=False)),
        min_size=1,
        max_size=4,
    )
)
def test_delta_space_is_the_weighted_sum_of_products(chosen: list[tuple[int, int, float]]) -> None:
    parts = [adapter(seed, rank, scaling=0.5 * rank) for seed, rank, _ in chosen]
    weights = [weight for _, _, weight in chosen]
    merged = merge_adapters(parts, weights=weights, space="delta")
    for module in MODULES:
        kept = [rank for _, rank, weight in chosen if weight]
        of_zero = {rank for _, rank, _ in chosen}  # where nothing counts: that of any part
        assert merged.factors[module].rank in ({sum(kept)} if kept else of_zero)
        expected = summed(parts, weights, module).float()
        torch.testing.assert_close(merged.factors[module].delta(), expected, rtol=1e-4, atol=1e-5)


def test_factor_space_averages_a_and_b_separately() -> None:
    parts = [adapter(1), adapter(2)]
    merged = merge_adapters(parts, weights=[0.25, 0.75], space="factors").factors["query"]
    a, b = (p.factors["query"] for p in parts)
    torch.testing.assert_close(merged.a, 0.25 * a.a + 0.75 * b.a)
    torch.testing.assert_close(merged.b, 0.25 * a.b + 0.75 * b.b)
    assert merged.scaling == 2.0


def test_the_two_spaces_agree_where_all_a_are_equal_and_differ_elsewhere() -> None:
    one, two = adapter(1), adapter(2)
    shared = {n: Factors(one.factors[n].a, two.factors[n].b, 2.0) for n in MODULES}
    twin = Adapter(shared, two.manifest)
    same = [
        merge_adapters([one, twin], space=s).factors["query"].delta() for s in ("delta", "factors")
    ]
    torch.testing.assert_close(*same)
    apart = [
        merge_adapters([one, two], space=s).factors["query"].delta() for s in ("delta", "factors")
    ]
    assert not torch.allclose(*apart, atol=1e-2)


@pytest.mark.parametrize("space", ["delta", "factors"])
def test_identical_adapters_and_a_single_one_stay_what_they_are(space: Any) -> None:
    one = adapter(1)
    for parts in ([one], [one, one, one]):
        merged = merge_adapters(parts, space=space)
        for module in MODULES:
            torch.testing.assert_close(merged.factors[module].delta(), one.factors[module].delta())


@settings(max_examples=20, deadline=None)
@given(st.permutations([0, 1, 2]))
def test_the_order_of_parts_does_not_matter(order: list[int]) -> None:
    parts, weights = [adapter(i) for i in range(3)], [0.5, 0.3, 0.2]
    straight = merge_adapters(parts, weights=weights).factors["dense"].delta()
    turned = merge_adapters([parts[i] for i in order], weights=[weights[i] for i in order])
    assert torch.equal(turned.factors["dense"].delta(), straight)


def test_the_manifest_says_what_was_merged() -> None:
    parts = [adapter(1), adapter(2)]
    manifest = merge_adapters(parts).manifest
    assert manifest["merge"] == {
        "method": "linear",
        "settings": {"normalize": False},
        "space": "delta",
        "weights": [0.5, 0.5],
        "labels": ["part 1", "part 2"],
        "written": {"rank": 4, "modules": 2},
    }
    assert manifest["parents"] == [part.weights_hash for part in parts]
    assert manifest["domains"] == ["d1", "d2"] and "recommender" not in manifest
    alike = [scoring(1, {"kind": "x"}), scoring(2, {"kind": "x"})]
    assert merge_adapters(alike).manifest["recommender"] == {"kind": "x"}


@pytest.mark.parametrize(
    ("parts", "weights", "space", "words"),
    [
        ([], None, "delta", "at least one adapter"),
        ([adapter(1), adapter(2)], [1.0], "delta", "2 adapters need 2 weights, not 1"),
        ([adapter(1)], [math.nan], "delta", "must be finite"),
        ([adapter(1), adapter(2, name="other", fingerprint="e" * 64)], None, "delta", "backbone"),
        ([adapter(1), adapter(2, modules=("query",))], None, "factors", "module 'dense'"),
        ([adapter(1), adapter(2, rank=3)], None, "factors", "module 'query'"),
        ([adapter(1), adapter(2, scaling=1.0)], None, "factors", "module 'query'"),
        (
            [scoring(1, {"kind": "x", "items": 5}), scoring(2, {"kind": "x", "items": 9})],
            None,
            "delta",
            "recommender.items is 5 in part 1 and 9 in part 2",
        ),
        ([scoring(1, {"kind": "x"}), adapter(2)], None, "delta", "part 2 does not say"),
        ([adapter(1), scoring(2, {"kind": "x"})], None, "delta", "part 1 does not say"),
    ],
)
def test_what_cannot_be_merged_is_said_in_one_sentence(
    parts: list[Adapter], weights: list[float] | None, space: Any, words: str
) -> None:
    with pytest.raises(WeftError, match=words):
        merge_adapters(parts, weights=weights, space=space)
