"""What each of mergekit's methods is in weft's words, with mergekit's defaults."""

from __future__ import annotations

from typing import Any

import pytest
from mergekit_files import CONSENSUS, SUM, read, two


@pytest.mark.parametrize(
    ("text", "method"),
    [
        (two("task_arithmetic"), SUM),
        (two("task_arithmetic", "lambda: 0.7"), SUM | {"scale": 0.7}),
        (two("task_arithmetic", "normalize: true"), SUM | {"normalize": True}),
        (
            two("ties", own="weight: 0.5, density: 0.3"),
            CONSENSUS | {"density": 0.3, "keep": "exact", "normalize": True},
        ),
        (
            two("ties", "density: 0.3, normalize: false, lambda: 2, rescale: true"),
            CONSENSUS | {"density": 0.3, "keep": "exact", "scale": 2, "rescale": "l1"},
        ),
        (
            two("dare_ties", "density: 0.53"),
            {"name": "dare", "drop_rate": 0.47, "rescale": "l1", "then": CONSENSUS},
        ),
        (
            two("dare_linear", "density: 0.5, rescale: false"),
            {"name": "dare", "drop_rate": 0.5, "rescale": "none", "then": SUM},
        ),
        (two("dare_linear"), SUM),  # density 1: nothing is dropped
        (
            two("della", "density: 0.5, epsilon: 0.1"),
            {
                "name": "della",
                "drop_rate": 0.5,
                "window": 0.2,
                "rescale": "l1",
                "then": CONSENSUS | {"normalize": True},
            },
        ),
        (
            two("della_linear", "density: 0.5"),
            {"name": "della", "drop_rate": 0.5, "window": 0.3, "rescale": "l1", "then": SUM},
        ),
        (
            two("breadcrumbs", "density: 0.9, gamma: 0.02"),
            {
                "name": "breadcrumbs",
                "density": 0.9,
                "keep": "exact",
                "gamma": 0.02,
                "trim": "tensor",
                "then": SUM,
            },
        ),
        (
            two("breadcrumbs_ties", "density: 0.995"),
            {
                "name": "breadcrumbs",
                "density": 0.995,
                "keep": "exact",
                "gamma": 0.005,
                "trim": "tensor",
                "then": CONSENSUS,
            },
        ),
    ],
)
def test_methods_on_task_vectors(text: str, method: dict[str, Any]) -> None:
    recipe, said = read(text)
    assert recipe.method == method and said == []
    assert [part.path for part in recipe.parts] == ["a", "b"]  # the base has no task vector
    assert recipe.weights == [0.5, 0.5] and recipe.base == "base"


def test_methods_without_weights() -> None:
    stock, _ = read(two("model_stock", own=""))
    assert stock.method == {"name": "model_stock", "filter_wise": False, "opposed": "formula"}
    assert stock.weights is None and stock.base == "base" and len(stock.parts) == 2
    sce, _ = read(two("sce", "select_topk: 0.1", own=""))
    assert sce.method == {
        "name": "sce",
        "density": 0.1,
        "among": "changed",
        "keep": "exact",
        "alike": 1e-6,
    }
    assert sce.round_to == "stored"  # the precision decides which entries are kept
    karcher, _ = read("{merge_method: karcher, models: [{model: a}, {model: b}, {model: c}]}")
    assert karcher.method == {"name": "karcher", "iterations": 10, "tolerance": 1e-5}
    assert karcher.base is None and len(karcher.parts) == 3


@pytest.mark.parametrize(
    ("text", "method", "weights", "base"),
    [
        (
            two("nuslerp", "nuslerp_flatten: false", own="weight: 1"),
            {"name": "nuslerp", "along": "rows"},
            [1, 1],
            "base",
        ),
        (
            two("multislerp", "normalize_weights: false"),
            {"name": "multislerp", "normalize": False},
            [0.5, 0.5],
            "base",
        ),
        (
            "{merge_method: nearswap, base_model: base, models: [{model: a}], parameters: {t: 1e-3}}",
            {"name": "nearswap"},
            [1e-3],
            "base",
        ),
        (
            "{merge_method: arcee_fusion, base_model: base, models: [{model: a}], dtype: bfloat16}",
            {"name": "arcee_fusion", "precision": "bfloat16"},
            None,
            "base",
        ),
        (two("ram", own=""), {"name": "ram", "epsilon": 1e-5}, None, "base"),
        (
            two("ramplus_tl", "r: 0.2", own=""),
            {"name": "ram", "epsilon": 1e-5, "boost": 0.2, "most": 0.2},
            None,
            "base",
        ),
    ],
)
def test_methods_of_few_lines(
    text: str, method: dict[str, Any], weights: list[float] | None, base: str
) -> None:
    recipe, _ = read(text)
    assert recipe.method == method and recipe.weights == weights and recipe.base == base
