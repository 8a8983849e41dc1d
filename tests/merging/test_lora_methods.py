"""Methods on adapters: through the engine, on factors, LoRA-LEGO and KnOTS."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_adapters import adapter, best, delta
from torch import Tensor

from weft.adapters import Adapter, Factors
from weft.errors import WeftError
from weft.merging import merge_adapters
from weft.merging.engine.source import Memory
from weft.merging.engine.stream import Merge, merge_in_memory
from weft.merging.lora import dense
from weft.merging.lora.sources import DeltaSource, FactorSource
from weft.merging.methods import METHODS, make_method
from weft.merging.methods.lego import k_means, lego

SHAPES = {"tall": (40, 12), "wide": (9, 50)}
DENSE = [
    "ties",
    "dare",
    "della",
    "breadcrumbs",
    "magnitude_prune",
    "sce",
    "pcb",
    "model_stock",
    "karcher",
    "localize_and_stitch",
]


def parts_of(*ranks: int) -> list[Adapter]:
    return [adapter(k, rank, 0.5 + k, shapes=SHAPES) for k, rank in enumerate(ranks)]


@pytest.mark.parametrize("name", [*DENSE, "slerp", "ext_sub"])
def test_any_method_gives_what_it_gives_for_the_dense_task_vectors(name: str) -> None:
    parts = parts_of(2, 3) if name in ("slerp", "ext_sub") else parts_of(2, 3, 4)
    method = make_method(name)
    weights = method.default_weights(len(parts))
    dense = [
        Memory(f"part {k}", {n: f.delta() for n, f in part.factors.items()})
        for k, part in enumerate(parts, start=1)
    ]
    expected = merge_in_memory(Merge(dense, method, lambda _: weights))
    made = merge_adapters(parts, name, weights)
    cut = merge_adapters(parts, name, weights, rank=3)
    for module, whole in expected.items():
        torch.testing.assert_close(made.factors[module].delta(), whole, rtol=1e-4, atol=1e-5)
        assert made.factors[module].rank == min(whole.shape)
        near, error = best(whole, 3)
        torch.testing.assert_close(delta(cut, module), near, rtol=0, atol=1e-4)
        lost = cut.manifest["merge"]["truncation"]["modules"][module]
        assert lost == pytest.approx(error, rel=6e-3, abs=1e-6)
    assert made.manifest["merge"]["method"] == name


@pytest.mark.parametrize("name", ["ties", "karcher", "linear"])
def test_factors_by_themselves(name: str) -> None:
    parts = [adapter(k, 3, 0.7, shapes=SHAPES) for k in range(3)]
    weights = [0.5, 0.3, 0.2]
    halves = [
        Memory(
            f"part {k}",
            {f"{n}.{h}": t for n, f in part.factors.items() for h, t in (("a", f.a), ("b", f.b))},
        )
        for k, part in enumerate(parts, start=1)
    ]
    expected = merge_in_memory(Merge(halves, make_method(name), lambda _: weights))
    made = merge_adapters(parts, name, weights, space="factors")
    for module, factors in made.factors.items():
        torch.testing.assert_close(factors.a, expected[f"{module}.a"])
        torch.testing.assert_close(factors.b, expected[f"{module}.b"])
        assert factors.scaling == 0.7
    cut = merge_adapters(parts, name, weights, space="factors", rank=2)
    near, _ = best(delta(made, "wide"), 2)
    torch.testing.assert_close(delta(cut, "wide"), near, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["concat", "lego", "knots"])
def test_methods_on_deltas_refuse_factors(name: str) -> None:
    with pytest.raises(WeftError, match=f"method '{name}' .* space: delta"):
        merge_adapters([adapter(1), adapter(2)], name, space="factors")


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.data(), st.floats(0.1, 3))
def test_sources_read_any_run_of_elements(
    rank: int, out: int, inside: int, data: st.DataObject, scaling: float
) -> None:
    part = adapter(1, rank, scaling, shapes={"m": (out, inside)})
    whole = part.factors["m"].delta().reshape(-1)
    start = data.draw(st.integers(0, out * inside))
    count = data.draw(st.integers(0, out * inside - start))
    read = DeltaSource("x", part, {"other": (2, 3)}).read("m", start, count)
    assert read.shape == (count,)
    torch.testing.assert_close(read, whole[start : start + count], rtol=1e-5, atol=1e-6)
    assert not DeltaSource("x", part, {"other": (2, 3)}).read("other", 1, 4).any()
    flat = part.factors["m"].b.reshape(-1)
    count = min(count, max(len(flat) - start, 0))
    assert torch.equal(FactorSource("x", part).read("m.lora_B", start, count), flat[start:][:count])


def distances(factors: Factors) -> Tensor:
    """The units [a; s b] of an adapter, sorted by their first element."""
    units = torch.cat([factors.a, factors.scaling * factors.b.T], dim=1)
    return units[units[:, 0].argsort()]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_lego_of_equal_parts_is_that_part_up_to_the_order_of_units(count: int) -> None:
    part = adapter(3, 4, 0.7, shapes=SHAPES)
    merged = merge_adapters([part] * count, "lego")
    for module, factors in merged.factors.items():
        torch.testing.assert_close(distances(factors), distances(part.factors[module]))
        torch.testing.assert_close(factors.delta(), part.factors[module].delta())


def naive_lego(
    units: Tensor, mass: Tensor, groups: Sequence[int], rank: int, inside: int
) -> Tensor:
    """ΔW [out, in] from units [n, in + out] and their clusters, by the formula."""
    total = torch.zeros(units.shape[1] - inside, inside, dtype=torch.float64)
    labels = torch.tensor(groups)
    clusters = len(set(groups))
    for group in set(groups):
        own, m = units[labels == group], mass[labels == group]
        centre = (m[:, None] * own).sum(0) / m.sum()
        centre = centre * ((m * own.norm(dim=1)).sum() / m.sum()) / centre.norm()
        total += torch.outer(centre[inside:], centre[:inside])
    return total * (rank / clusters) ** 0.5


def test_lego_clusters_units_that_are_near_and_follows_the_formula() -> None:
    """Two parts whose units are noisy copies of two directions; the second part weighs thrice."""
    random = torch.Generator().manual_seed(2)
    true = torch.randn(2, 7, generator=random, dtype=torch.float64) * 5
    noisy = [true[[0, 1, 0]] + torch.randn(3, 7, generator=random) / 9 for _ in range(2)]
    parts = [Factors(u[:, :4].float(), u[:, 4:].T.float() / 2, 2.0) for u in noisy]
    made = lego(parts, [1.0, 3.0], 2)
    units = torch.cat([torch.cat([p.a, 2 * p.b.T], dim=1).double() for p in parts])
    mass = torch.tensor([1.0, 1, 1, 3, 3, 3], dtype=torch.float64)
    expected = naive_lego(units, mass, [0, 1, 0, 0, 1, 0], 3, 4)
    torch.testing.assert_close(made.delta().double(), expected, rtol=1e-5, atol=1e-5)
    assert made.rank == 2 and made.scaling == pytest.approx((3 / 2) ** 0.5)
    plain = lego(parts, [1.0, 3.0], 2, rescale=False)
    assert plain.scaling == 1.0 and torch.equal(plain.a, made.a)
    for factor in (2.0, -1.0):
        turned = lego(parts, [factor, 3.0 * factor], 2)
        sign = 1 if factor > 0 else -1
        torch.testing.assert_close(turned.delta(), sign * made.delta())


def test_lego_options() -> None:
    parts = parts_of(2, 4)
    assert merge_adapters(parts, "lego").factors["wide"].rank == 4
    assert merge_adapters(parts, "lego", rank=3).factors["wide"].rank == 3
    assert merge_adapters(parts, {"name": "lego", "rank": 5}).factors["wide"].rank == 5
    both = merge_adapters(parts, {"name": "lego", "rank": 5}, rank=2)
    assert both.factors["wide"].rank == 2 and both.manifest["merge"]["truncation"]["max"] > 0
    alone = merge_adapters(parts, "lego", [0, 1])
    torch.testing.assert_close(alone.factors["wide"].delta(), parts[1].factors["wide"].delta())


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 99), st.integers(0, 9))
def test_k_means_finds_a_local_optimum_with_no_empty_cluster(
    points: int, clusters: int, seed: int, start: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(points, 3, generator=random, dtype=torch.float64)
    mass = torch.rand(points, generator=random, dtype=torch.float64) + 0.1
    groups = k_means(x @ x.T, mass, clusters, seed=start)
    count = min(points, clusters)
    assert sorted(set(groups.tolist())) == list(range(count))
    centres = torch.stack(
        [
            (mass[groups == g, None] * x[groups == g]).sum(0) / mass[groups == g].sum()
            for g in range(count)
        ]
    )
    away = torch.cdist(x, centres)
    own = away.gather(1, groups[:, None])[:, 0]
    assert bool((own <= away.min(1).values + 1e-9).all())
    assert torch.equal(groups, k_means(x @ x.T, mass, clusters, seed=start))


def naive_knots(
    parts: Sequence[Adapter], then: Any, weights: Sequence[float], *, sigma: bool
) -> dict[str, Tensor]:
    """[ΔW_1 … ΔW_K] = U S Vᵀ by a dense SVD; U times the merge of the parts of S Vᵀ or Vᵀ."""
    outer: dict[str, Tensor] = {}
    pieces: list[dict[str, Tensor]] = [{} for _ in parts]
    for module in SHAPES:
        wide = torch.cat([delta(part, module) for part in parts], dim=1)
        left, values, right = torch.linalg.svd(wide, full_matrices=False)
        keep = values > 1e-7 * values[0]
        left, values, right = left[:, keep], values[keep], right[keep]
        outer[module] = left if sigma else left * values
        aligned = values[:, None] * right if sigma else right
        for own, piece in zip(pieces, aligned.chunk(len(parts), dim=1), strict=True):
            own[module] = piece.float()
    sources = [Memory(f"part {k}", piece) for k, piece in enumerate(pieces, 1)]
    merged = merge_in_memory(Merge(sources, make_method(then), lambda _: weights))
    return {module: outer[module] @ merged[module].double() for module in SHAPES}


@pytest.mark.parametrize("scale_by", ["sigma", "none"])
@pytest.mark.parametrize("then", ["ties", "linear", {"name": "ties", "density": 0.5}])
@pytest.mark.parametrize("ranks", [(2, 3), (4, 5, 6)])
def test_knots_is_the_merge_in_the_common_basis(
    scale_by: str, then: Any, ranks: tuple[int, ...]
) -> None:
    """Signs of U's columns are free; TIES, which looks at signs per element, does not care."""
    parts = parts_of(*ranks)
    weights = [0.5, 0.25, 0.4][: len(ranks)]
    method = {"name": "knots", "then": then, "scale_by": scale_by}
    made = merge_adapters(parts, method, weights)
    expected = naive_knots(parts, then, weights, sigma=scale_by == "sigma")
    for module, (out, _) in SHAPES.items():
        torch.testing.assert_close(delta(made, module), expected[module], rtol=1e-3, atol=1e-3)
        assert made.factors[module].rank == min(sum(ranks), out)
    cut = merge_adapters(parts, method, weights, rank=3)
    near, _ = best(delta(made, "wide"), 3)
    torch.testing.assert_close(delta(cut, "wide"), near, rtol=0, atol=1e-4)


def test_knots_with_a_sum_is_that_sum_and_of_equal_parts_that_part() -> None:
    parts = parts_of(2, 5, 3)
    weights = [0.5, 2.0, -0.3]
    made = merge_adapters(parts, {"name": "knots", "then": "linear"}, weights)
    plain = merge_adapters(parts, "linear", weights)
    same = merge_adapters([parts[1]] * 3, {"name": "knots", "then": "linear"})
    for module in SHAPES:
        torch.testing.assert_close(delta(made, module), delta(plain, module), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            delta(same, module), delta(parts[1], module), rtol=1e-5, atol=1e-5
        )
        assert same.factors[module].rank == 5  # the rank of what they span, not Σ r


def test_every_method_of_the_registry_merges_adapters_by_name() -> None:
    """And what it says of itself is in the manifest, as plain JSON values."""
    for name, method in METHODS.items():
        if method.checkpoints_only:
            continue
        parts = parts_of(2, 3)[: 1 if method.takes == "1" else 2]
        made = merge_adapters(parts, name)
        recipe = made.manifest["merge"]
        assert recipe["method"] == name and json.loads(json.dumps(recipe)) == recipe
        assert recipe["weights"] == make_method(name).default_weights(len(parts))
        again = merge_adapters(parts, {"name": name, **recipe.get("settings", {})})
        assert made.weights_hash == again.weights_hash


@pytest.mark.parametrize("scale_by", ["sigma", "none"])
def test_knots_of_a_module_that_was_not_trained_is_zero(scale_by: str) -> None:
    parts = [
        replace(p, factors={n: replace(f, a=torch.zeros_like(f.a)) for n, f in p.factors.items()})
        for p in parts_of(2, 3)
    ]
    made = merge_adapters(parts, {"name": "knots", "scale_by": scale_by})
    assert all(not delta(made, module).any() for module in SHAPES)


def test_the_engine_gets_as_many_threads_as_torch_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless told otherwise: not the one that torch is left with meanwhile."""
    seen: list[int | None] = []
    real = dense.stream
    monkeypatch.setattr(
        dense, "stream", lambda *a, threads: (seen.append(threads), real(*a, threads=threads))
    )
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        merge_adapters(parts_of(2, 3), "ties")
    finally:
        torch.set_num_threads(before)
    assert seen == [2]
