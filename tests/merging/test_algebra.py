"""Formulas of weights against the same formulas on dense tensors."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from weft.adapters import Adapter, Factors, save_adapter
from weft.errors import WeftError
from weft.merging.algebra import Expression, mean, weights
from weft.merging.engine.source import Memory
from weft.merging.engine.stream import Merge, merge_in_memory
from weft.merging.merge import merge
from weft.merging.methods import make_method
from weft.merging.plan import plan_recipe
from weft.merging.recipe_file import load_merge_recipe

SHAPES = {
    "embed.weight": (7, 5),
    "layer.0.query.weight": (5, 4),
    "layer.0.query.bias": (5,),
    "layer.1.query.weight": (5, 4),
    "scale": (),
}


def tensors(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = {n: torch.randn(shape, generator=generator).to(dtype) for n, shape in SHAPES.items()}
    return made | {"positions": torch.arange(6)}


def folder(path: Path, seed: int, dtype: torch.dtype = torch.float32) -> Path:
    path.mkdir(parents=True)
    save_file(tensors(seed, dtype), path / "model.safetensors")
    (path / "config.json").write_text('{"model_type": "bert"}')
    return path


def adapter(seed: int, prefix: str = "", rank: int = 2, **changes: Any) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    factors = {
        f"{prefix}layer.{n}.query": Factors(
            torch.randn(rank, 4, generator=generator),
            torch.randn(5, rank, generator=generator),
            0.5,
        )
        for n in changes.get("layers", (0, 1))
    }
    manifest = {"backbone": {"name": "tiny", "fingerprint": "f" * 64}}
    return Adapter(factors, manifest, changes.get("saved", {}))


def delta(one: Adapter, module: str) -> Tensor:
    f = one.factors[module]
    return f.scaling * (f.b.double() @ f.a.double())


Naive = dict[str, Tensor]
NAMES = ("a", "b", "c")


def formula(chance: random.Random, depth: int, leaves: dict[str, Any]) -> Any:
    """A random formula, of whatever the leaves are: expressions, or dense float64 vectors."""
    if depth == 0:
        return leaves[chance.choice(NAMES)]
    kind = chance.choice("+-*/nm")
    one = formula(chance, depth - 1, leaves)
    if kind in "*/":
        number = chance.choice([0.3, -0.7, 2, 0.125, -1, 1 / 3])
        return one * number if kind == "*" else one / number
    if kind == "n":
        return -one
    other = formula(chance, chance.randrange(depth), leaves)
    if kind == "m":
        return mean([one, other]) if isinstance(one, Expression) else (one + other) / 2
    return one + other if kind == "+" else one - other


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 5))
def test_a_random_formula_is_what_it_says(seed: int, depth: int) -> None:
    given = {name: tensors(k) for k, name in enumerate(NAMES)}
    lazy = formula(random.Random(seed), depth, {n: weights(g, n) for n, g in given.items()})
    found = lazy.tensors()
    assert list(found) == [*SHAPES, "positions"]
    for name in SHAPES:
        dense = {n: g[name].double() for n, g in given.items()}
        wanted = formula(random.Random(seed), depth, dense)
        reach = sum(abs(c) for c in lazy.coefficients.values()) or 1.0
        torch.testing.assert_close(found[name].double(), wanted, rtol=1e-6, atol=1e-6 * reach)
        assert torch.equal(lazy[name], found[name])
        block = lazy.read(name, 1, 3) if len(wanted.shape) else lazy.read(name, 0, 1)
        want = wanted.flatten()[1:4] if len(wanted.shape) else wanted.flatten()
        torch.testing.assert_close(block.double(), want, rtol=1e-6, atol=1e-6 * reach)
    assert torch.equal(found["positions"], torch.arange(6))


def three() -> tuple[Expression, Expression, Expression]:
    base, a, b = (weights(tensors(k), name) for k, name in enumerate(("base", "a", "b")))
    return base, a, b


def test_a_base_that_cancels_is_gone() -> None:
    base, a, b = three()
    merged = base + 0.3 * (a - base) + 0.7 * (b - base)
    assert merged.coefficients == {"a": 0.3, "b": 0.7}
    thirds = base + (1 / 3) * (a - base) + (1 / 3) * (b - base) + (1 / 3) * (a - base)
    assert list(thirds.coefficients) == ["a", "b"]
    assert (base + 0.2 * (a - base)).coefficients == {"base": 0.8, "a": 0.2}


def test_a_small_factor_is_no_rounding() -> None:
    base, a, _ = three()
    assert (base + 1e-15 * a).coefficients == {"base": 1.0, "a": 1e-15}
    assert (1e20 * (1e-20 * a)).coefficients == {"a": 1.0}


def test_what_cancels_altogether_is_zero_of_the_same_shapes() -> None:
    _, a, _ = three()
    nothing = a - a
    assert {n: tuple(t.shape) for n, t in nothing.tensors().items() if n in SHAPES} == SHAPES
    assert not any(nothing[name].any() for name in SHAPES)
    assert (nothing + 2 * a).coefficients == {"a": 2.0}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_one_leaf_alone_keeps_its_bits(dtype: torch.dtype) -> None:
    given, other = tensors(1, dtype), tensors(2, dtype)
    a, b = weights(given), weights(other, "b")
    for same in (a, (a + b) - b, 2 * a / 2, mean([a, a, a])):
        for name, tensor in same.tensors().items():
            assert tensor.dtype == given[name].dtype and torch.equal(tensor, given[name])
    assert (0.5 * a)["scale"].dtype == torch.float32


def test_numbers_of_other_libraries_are_numbers() -> None:
    _, a, _ = three()
    for two in (np.float32(2), np.int64(2), torch.tensor(2.0), Fraction(2), 2):
        assert (two * a).coefficients == (a * two).coefficients == {"a": 2.0}
    assert sum([a, a]).coefficients == {"a": 2.0}  # type: ignore[union-attr]
    assert mean([a, a, -a]).coefficients == {"a": pytest.approx(1 / 3, abs=0)}


def test_the_same_weights_are_one_leaf(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", 1)
    a, again = weights(path), weights(str(path / ".." / "a"))
    assert (a + again).coefficients == {"a": 2.0}
    given = tensors(1)
    assert (weights(given) - weights(given)).coefficients == {"the tensors": 0.0}
    copy = weights(given) + weights(tensors(1))
    assert list(copy.coefficients) == ["the tensors", "the tensors 2"]


def test_a_formula_is_a_part_and_a_base_of_any_merge() -> None:
    _, a, b = three()
    parts = [mean([a, b]), Memory("other", tensors(7))]
    found = merge_in_memory(Merge(parts, make_method("linear"), lambda _: [0.5, 0.5]))
    wanted = (tensors(1)["embed.weight"] + tensors(2)["embed.weight"]) / 4
    torch.testing.assert_close(found["embed.weight"], wanted + tensors(7)["embed.weight"] / 2)


def test_adapters_are_added_to_the_weights_of_their_modules() -> None:
    one, two, given = adapter(1), adapter(2, rank=3, layers=(1,)), tensors(0)
    merged = weights(given, "base") + 0.5 * weights(one, "one") - 2 * weights(two, "two")
    found = merged.tensors()
    for layer in (0, 1):
        name = f"layer.{layer}.query"
        wanted = given[f"{name}.weight"].double() + 0.5 * delta(one, name)
        wanted = wanted - 2 * delta(two, name) if layer == 1 else wanted
        torch.testing.assert_close(found[f"{name}.weight"].double(), wanted, rtol=1e-6, atol=1e-6)
        part = merged.read(f"{name}.weight", 3, 9).double()
        torch.testing.assert_close(part, wanted.flatten()[3:12], rtol=1e-6, atol=1e-6)
    for name in ("embed.weight", "layer.0.query.bias", "scale", "positions"):
        assert torch.equal(found[name], given[name])


@pytest.mark.parametrize(("more", "less"), [("bert.", ""), ("", "model."), ("a.b.", "")])
def test_one_prefix_may_be_on_either_side(more: str, less: str) -> None:
    given = {f"{more}{name}": tensor for name, tensor in tensors(0).items()}
    one = adapter(1, prefix=less)
    found = (weights(given, "base") + weights(one))[f"{more}layer.1.query.weight"]
    wanted = tensors(0)["layer.1.query.weight"].double() + delta(one, f"{less}layer.1.query")
    torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=1e-6)


def test_an_adapter_that_does_not_fit_is_named() -> None:
    base = weights(tensors(0), "base")
    with pytest.raises(WeftError, match=r"x has the module 'layer\.9\.query', but base has no"):
        base + weights(adapter(1, layers=(0, 9)), "x")
    with pytest.raises(WeftError, match=r"x has the module 'deep\.layer\.9\.query' and 1 more"):
        base + weights(adapter(1, prefix="deep.", layers=(9, 8)), "x")
    twice = {f"{k}.{n}": t for k in ("left", "right") for n, t in tensors(0).items()}
    with pytest.raises(WeftError, match=r"fit two places in base: 'left\..*' and 'right\..*'"):
        weights(twice, "base") + weights(adapter(1))
    narrow = {**tensors(0), "layer.0.query.weight": torch.zeros(5, 3)}
    with pytest.raises(WeftError, match=r"shape \[5, 4\] in x, but 'layer.0.query.weight' has"):
        weights(narrow, "base") + weights(adapter(1), "x")
    with pytest.raises(WeftError, match=r"saves 'classifier\.weight' whole"):
        weights(adapter(1, saved={"classifier.weight": torch.ones(2)}))


def test_adapters_alone_make_a_delta_that_has_no_checkpoint(tmp_path: Path) -> None:
    one, two = adapter(1), adapter(2, layers=(1,))
    both = weights(one, "one") - weights(two, "two")
    wanted = delta(one, "layer.1.query") - delta(two, "layer.1.query")
    torch.testing.assert_close(both["layer.1.query"].double(), wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(both["layer.0.query"].double(), delta(one, "layer.0.query"))
    with pytest.raises(WeftError, match="is of adapters alone"):
        both.save(tmp_path / "out")
    base = weights(tensors(0), "base")  # a checkpoint that cancels still says what there is
    difference = base + weights(one, "one") - base
    assert list(difference) == [*SHAPES, "positions"] and not difference["embed.weight"].any()


def test_misuse_is_a_sentence() -> None:
    base, a, _ = three()
    for wrong, words in (
        (lambda: base * a, "weights can't be multiplied by weights"),
        (lambda: 1 / a, None),
        (lambda: base / a, "weights can't be divided by weights"),
        (lambda: a / 0, "divided by zero"),
        (lambda: a * float("nan"), "multiplied by nan"),
        (lambda: a * "2", "multiplied by numbers only, not by '2'"),
        (lambda: a + 1, "added to weights only, not to '1'"),
        (lambda: a - "b", "not 'b'"),
        (lambda: a["nothing"], "no tensor 'nothing' in a"),
        (lambda: mean([]), "at least one"),
        (lambda: weights("no/such/folder"), "no/such/folder does not exist"),
    ):
        with pytest.raises(TypeError if words is None else WeftError, match=words):
            wrong()


def test_checkpoints_that_differ_are_named_where_they_meet() -> None:
    base = weights(tensors(0), "base")
    less = {n: t for n, t in tensors(1).items() if n != "scale"}
    with pytest.raises(WeftError, match="tensor 'scale' is in base but not in less"):
        base - weights(less, "less")
    moved = weights(tensors(1) | {"positions": torch.arange(6) + 1}, "moved")
    with pytest.raises(WeftError, match="'positions' holds integers that differ in base and moved"):
        (base + moved).tensors()
    with pytest.raises(WeftError, match="'positions' holds integers that differ in base and moved"):
        (base + moved).read("positions", 0, 6)
    bad = weights(tensors(1) | {"scale": torch.tensor(float("inf"))}, "bad")
    with pytest.raises(WeftError, match="tensor 'scale' of bad holds NaN or infinity"):
        (0.5 * bad)["scale"]


def test_a_saved_formula_is_the_checkpoint_that_it_says(tmp_path: Path) -> None:
    base = weights(folder(tmp_path / "base", 0, torch.bfloat16))
    a, b = (weights(folder(tmp_path / name, k)) for k, name in enumerate("ab", 1))
    one = adapter(3)
    save_adapter(one, tmp_path / "adapter")
    merged = base + 0.25 * (a - base) + 0.5 * b + 0.5 * weights(tmp_path / "adapter")
    merged.save(tmp_path / "out")
    found, wanted = load_file(tmp_path / "out" / "model.safetensors"), merged.tensors()
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        assert tensor.dtype == (torch.bfloat16 if tensor.is_floating_point() else torch.int64)
        assert torch.equal(tensor, wanted[name].to(tensor.dtype))
    name = "layer.0.query"
    exact = 0.75 * tensors(0, torch.bfloat16)[f"{name}.weight"].double()
    exact += 0.25 * tensors(1)[f"{name}.weight"] + 0.5 * tensors(2)[f"{name}.weight"]
    exact += 0.5 * delta(one, name)
    torch.testing.assert_close(wanted[f"{name}.weight"].double(), exact, rtol=1e-6, atol=1e-6)
    assert (tmp_path / "out" / "config.json").is_file()
    merged.save(tmp_path / "wide", torch.float32)
    wide = load_file(tmp_path / "wide" / "model.safetensors")
    assert all(torch.equal(wide[name], wanted[name]) for name in wanted)
    with pytest.raises(WeftError, match="exists already"):
        a.save(tmp_path / "base")


def test_the_manifest_of_a_saved_formula_replays_it(tmp_path: Path) -> None:
    a, b = (weights(folder(tmp_path / where / "model", k)) for k, where in enumerate("ab"))
    (0.25 * a + 0.75 * b).save(tmp_path / "out")
    recipe = load_merge_recipe(tmp_path / "out" / "weft.json")
    assert [part.weight for part in recipe.parts] == [0.25, 0.75]
    plan_recipe(recipe).run(tmp_path / "again")
    one, two = ((tmp_path / at / "model.safetensors").read_bytes() for at in ("out", "again"))
    assert one == two


def test_a_formula_stands_beside_a_path_and_prints_as_itself(tmp_path: Path) -> None:
    paths = [folder(tmp_path / name, seed) for seed, name in enumerate(("base", "one", "two"))]
    base, one, two = map(weights, paths)
    formula = base + 0.5 * (one - base)
    assert repr(formula) == "<weights 0.5*base + 0.5*one>"
    assert len(repr(two.terms[0][0].source)) < 200
    merge([formula, paths[2]], "linear", [0.5, 0.5], out=tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    parts = [load_file(path / "model.safetensors") for path in paths]
    for name in SHAPES:
        a, b, c = (part[name].double() for part in parts)
        torch.testing.assert_close(merged[name].double(), 0.25 * a + 0.25 * b + 0.5 * c)
    assert (tmp_path / "out" / "config.json").is_file()  # a formula has none: the next part's
