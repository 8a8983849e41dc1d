"""Comparisons of parts against naive float64 computations on dense arrays."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles

from weft.adapters import Adapter, Factors
from weft.errors import WeftError
from weft.merging.comparing import comparison as contrast
from weft.merging.comparing import measures as contrast_measure
from weft.merging.comparing.comparison import Contrast, contrast_adapters, contrast_checkpoints
from weft.merging.comparing.hints import hints
from weft.merging.engine.source import Memory

IN, OUT = 12, 9
SHAPES = {
    "embeddings.word.weight": (7, 5),
    "encoder.layer.0.attention.self.query.weight": (5, 5),
    "encoder.layer.0.attention.output.dense.weight": (5, 5),
    "encoder.layer.0.output.dense.bias": (5,),
    "encoder.layer.1.attention.self.query.weight": (5, 5),
    "encoder.layer.10.attention.self.query.weight": (5, 5),
    "classifier.weight": (2, 5),
}


def checkpoint(label: str, seed: int, scale: float = 1.0, **changes: Any) -> Memory:
    random = torch.Generator().manual_seed(seed)
    made = {name: scale * torch.randn(shape, generator=random) for name, shape in SHAPES.items()}
    return Memory(label, made | {"positions": torch.arange(4)} | changes)


def adapter(seed: int, ranks: dict[str, int], scaling: float = 2.0, **said: Any) -> Adapter:
    random = torch.Generator().manual_seed(seed)
    factors = {
        name: Factors(
            torch.randn(rank, IN, generator=random),
            torch.randn(OUT, rank, generator=random),
            scaling,
        )
        for name, rank in ranks.items()
    }
    return Adapter(factors, {"backbone": {"name": "tiny", "fingerprint": "f" * 64} | said})


def naive(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Norms, cosines, conflicts of pairs and of any two, of K dense task vectors [K, n]."""
    norms = np.sqrt((vectors**2).sum(1))
    cosines = vectors @ vectors.T / np.outer(norms, norms)
    parts = len(vectors)
    conflicts = np.zeros((parts, parts))
    for i in range(parts):
        for j in range(parts):
            both = (vectors[i] != 0) & (vectors[j] != 0)
            conflicts[i, j] = ((vectors[i] * vectors[j])[both] < 0).mean()
    mixed = (vectors > 0).any(0) & (vectors < 0).any(0)
    several = (vectors != 0).sum(0) > 1
    return norms, cosines, conflicts, mixed.sum() / several.sum()


def assert_row(row: Any, vectors: np.ndarray) -> None:
    norms, cosines, conflicts, conflict = naive(vectors)
    assert row.elements == vectors.shape[1]
    np.testing.assert_allclose(row.norms, norms, rtol=1e-12)
    np.testing.assert_allclose(np.array(row.cosines, float), cosines, atol=1e-12)
    np.testing.assert_allclose(np.array(row.conflicts, float), conflicts, atol=1e-15)
    assert row.conflict == pytest.approx(conflict, abs=1e-15)
    mean = np.linalg.norm(vectors.mean(0)) / norms.mean()
    assert row.norm_of_mean == pytest.approx(mean, rel=1e-9)


def dense(parts: list[Memory], base: Memory, names: list[str]) -> np.ndarray:
    flat = lambda one: np.concatenate([one.tensors[n].double().numpy().ravel() for n in names])  # noqa: E731
    return np.stack([flat(part) - flat(base) for part in parts])


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 4), st.integers(0, 99), st.sampled_from([torch.float32, torch.bfloat16]))
def test_checkpoints_are_what_dense_float64_says(count: int, seed: int, dtype: torch.dtype) -> None:
    base = checkpoint("base", 1000)
    parts = []
    for k in range(count):
        moved = checkpoint(f"p{k}", seed + k).tensors
        mask = checkpoint("mask", seed + k + 7).tensors  # some elements stay those of the base
        mixed = {n: torch.where(mask[n] > 0.3, moved[n], base.tensors[n]) for n in SHAPES}
        parts.append(Memory(f"p{k}", {n: t.to(dtype) for n, t in mixed.items()}))
    stay = Memory("base", {n: base.tensors[n].to(dtype) for n in SHAPES})
    found = contrast_checkpoints(parts, stay)
    assert_row(found.whole, dense(parts, stay, list(SHAPES)))
    assert [row.name for row in found.layers] == [
        *("embeddings", "block 0", "block 1", "block 10", "head and rest")
    ]
    block = [name for name in SHAPES if ".layer.0." in name]
    assert_row(found.layers[1], dense(parts, stay, block))
    assert [row.name for row in found.kinds] == ["attention.output.dense", "query", "output.dense"]
    queries = [name for name in SHAPES if "query" in name]
    assert_row(found.kinds[1], dense(parts, stay, queries))


def test_numbers_do_not_depend_on_threads_and_hardly_on_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base, parts = checkpoint("base", 0), [checkpoint(f"p{k}", k + 1) for k in range(3)]
    one = contrast_checkpoints(parts, base, threads=1)
    assert contrast_checkpoints(parts, base, threads=4) == one
    cut = lambda spec, *, rows: [(s, min(3, spec.size - s)) for s in range(0, spec.size, 3)]  # noqa: E731
    monkeypatch.setattr(contrast, "pieces", cut)
    blocks = contrast_checkpoints(parts, base)
    assert_row(blocks.whole, dense(parts, base, list(SHAPES)))
    assert blocks.whole.conflicts == one.whole.conflicts


RANKS = (
    {"encoder.layer.0.query": 3, "encoder.layer.1.query": 2, "encoder.layer.1.value": 1},
    {"encoder.layer.0.query": 1, "encoder.layer.1.query": 4, "encoder.layer.1.value": 2},
    {"encoder.layer.0.query": 5, "encoder.layer.1.query": 2},  # no value: zero there
)


def deltas(parts: list[Adapter], names: list[str]) -> np.ndarray:
    out = []
    for part in parts:
        own = []
        for name in names:
            f = part.factors.get(name)
            value = np.zeros((OUT, IN))
            if f is not None:
                value = f.scaling * (f.b.double().numpy() @ f.a.double().numpy())
            own.append(value.ravel())
        out.append(np.concatenate(own))
    return np.stack(out)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.lists(st.floats(0.1, 9), min_size=3, max_size=3))
def test_adapters_of_different_ranks_are_what_dense_deltas_say(
    seed: int, scalings: list[float]
) -> None:
    parts = [adapter(seed + k, RANKS[k], scalings[k]) for k in range(3)]
    found = contrast_adapters(parts, ["a", "b", "c"])
    names = sorted(RANKS[0])
    assert_row(found.whole, deltas(parts, names))
    assert_row(found.layers[0], deltas(parts, names[:1]))
    two = contrast_adapters(parts[:2], ["a", "b"])
    for row, name in zip(two.kinds, ("query", "value"), strict=True):
        assert row.name == name
        assert_row(row, deltas(parts[:2], [n for n in names if n.endswith(name)]))


def test_rows_of_a_delta_are_formed_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [adapter(k, {"encoder.layer.0.query": 2 + k}) for k in range(2)]
    monkeypatch.setattr(contrast_measure, "BLOCK", 2 * IN + 1)
    found = contrast_adapters(parts, ["a", "b"])
    assert_row(found.whole, deltas(parts, ["encoder.layer.0.query"]))


def test_subspaces_and_effective_ranks_against_scipy_and_numpy() -> None:
    name = "encoder.layer.0.query"
    parts = [adapter(1, {name: 3}), adapter(2, {name: 2})]
    found = contrast_adapters(parts, ["a", "b"])
    one, two = (part.factors[name] for part in parts)
    (angles,) = found.angles
    assert (angles.module, angles.parts) == (name, ("a", "b"))
    for own, left, right, overlap in (
        (angles.output, one.b, two.b, found.whole.output_overlap),
        (angles.input, one.a.T, two.a.T, found.whole.input_overlap),
    ):
        wanted = np.sort(subspace_angles(left.double().numpy(), right.double().numpy()))
        np.testing.assert_allclose(np.deg2rad(own), wanted, atol=1e-9)
        assert overlap is not None
        assert overlap[0][1] == pytest.approx(np.mean(np.cos(wanted) ** 2))
        assert overlap[0][0] == pytest.approx(1.0)
    assert found.whole.output_chance is not None and found.whole.input_chance is not None
    assert found.whole.output_chance[0][1] == 3 / OUT
    assert found.whole.input_chance[0][1] == 3 / IN
    for k, factors in enumerate((one, two)):
        values = np.linalg.svd(factors.delta().double().numpy(), compute_uv=False)[: factors.rank]
        share = values / values.sum()
        assert found.whole.effective_ranks is not None
        assert found.whole.effective_ranks[k] == pytest.approx(
            math.exp(-(share * np.log(share)).sum()), rel=1e-5
        )


def test_what_is_zero_has_no_cosine_and_no_space() -> None:
    name = "encoder.layer.0.query"
    fresh = adapter(1, {name: 2})  # as training starts: B is zero
    fresh.factors[name].b.zero_()
    found = contrast_adapters([fresh, adapter(2, {name: 2})], ["fresh", "b"])
    assert found.whole.norms[0] == 0
    assert found.whole.cosines[0] == (None, None) and found.whole.conflicts[0][1] is None
    assert found.whole.output_overlap is not None
    assert found.whole.output_overlap[0][1] is None
    assert found.whole.effective_ranks is not None and found.whole.effective_ranks[0] is None
    assert not found.angles
    assert any("fresh changes nothing" in hint for hint in hints(found))
    assert "NaN" not in json.dumps(found.to_json())


def test_a_module_saved_whole_is_named() -> None:
    one, two = (adapter(k, {"encoder.layer.0.query": 2}) for k in range(2))
    one = Adapter(one.factors, one.manifest, {"classifier.weight": torch.ones(2, 2)})
    found = contrast_adapters([one, two], ["a", "b"])
    assert found.notes == ("saved whole and not compared: classifier.weight",)


def scaled(factor: float, seed: int = 5, label: str = "x", keep: float = 0.0) -> Memory:
    """The base moved by `factor` in a random direction, `keep` of another one beside it."""
    base, one, two = checkpoint("b", 0), checkpoint("s", seed), checkpoint("t", seed + 50)
    moved = {n: base.tensors[n] + factor * one.tensors[n] + keep * two.tensors[n] for n in SHAPES}
    return Memory(label, moved | {"positions": torch.arange(4)})


def said(*parts: Memory) -> str:
    return " ".join(hints(contrast_checkpoints(parts, checkpoint("base", 0))))


def test_hints_are_said_only_where_the_numbers_support_them() -> None:
    a = scaled(1.0, label="a")
    alike = said(a, scaled(1.0, label="b", keep=0.01))
    assert "a and b are nearly the same (cosine 1.000)" in alike and "Norms" not in alike
    loud = said(a, scaled(8.0, label="b"))
    assert "Norms differ 8.0×: b dominates a" in loud
    against = said(a, scaled(-1.0, label="b"))
    assert "a and b pull against each other (cosine -1.000)" in against
    assert "Signs conflict in 100% of the elements" in against
    assert "more than chance gives (50%)" in against
    unrelated = said(a, scaled(1.0, seed=9, label="b"))
    assert "as chance gives (50%): the parts' signs are unrelated" in unrelated
    assert "undo" not in unrelated
    three = contrast_checkpoints(
        [a, scaled(1.0, seed=9, label="b"), scaled(1.0, seed=20, label="c")], checkpoint("base", 0)
    )
    assert three.chance_conflict == 0.75
    assert three.to_json()["chance_conflict"] == {"pair": 0.5, "any": 0.75}
    assert "as chance gives (75%)" in " ".join(hints(three))
    nothing = said(a, scaled(1.0, label="b", keep=0.8))
    assert "nearly" not in nothing and "against" not in nothing and "Norms" not in nothing


def test_the_layer_of_least_agreement_is_named() -> None:
    a, b = scaled(1.0, label="a"), scaled(1.0, label="b")
    name = "encoder.layer.1.attention.self.query.weight"
    base = checkpoint("base", 0).tensors[name]
    turned = {**b.tensors, name: 2 * base - b.tensors[name]}
    assert "The parts agree least in block 1 (mean cosine -1.000" in said(a, Memory("b", turned))


def test_shared_input_directions_are_said_and_chance_overlap_is_not() -> None:
    name = "encoder.layer.0.query"
    one, two = adapter(1, {name: 2}), adapter(2, {name: 2})
    same = Adapter({name: Factors(one.factors[name].a, two.factors[name].b, 1.0)}, two.manifest)
    found = hints(contrast_adapters([one, same], ["a", "b"]))
    assert "a and b read the same input directions (A): overlap 1.00, chance 0.17." in found
    wide = [adapter(k, {name: OUT}) for k in (1, 2)]  # both fill the output space
    assert not [h for h in hints(contrast_adapters(wide, ["a", "b"])) if "overlap" in h]


def test_what_cannot_be_compared_is_named() -> None:
    base, a = checkpoint("base", 0), checkpoint("a", 1)
    less = Memory("less", {n: t for n, t in a.tensors.items() if n != "classifier.weight"})
    with pytest.raises(WeftError, match=r"'classifier\.weight' is in a but not in less"):
        contrast_checkpoints([a, less], base)
    a.tensors["classifier.weight"][0, 0] = float("nan")  # type: ignore[index]
    with pytest.raises(WeftError, match=r"'classifier\.weight' of a holds NaN"):
        contrast_checkpoints([a], base)
    name = "encoder.layer.0.query"
    ours, theirs = adapter(1, {name: 2}), adapter(2, {name: 2}, fingerprint="e" * 64)
    with pytest.raises(WeftError, match=r"a belongs to backbone tiny \(f+…\), b to tiny \(e+…\)"):
        contrast_adapters([ours, theirs], ["a", "b"])
    narrow = Adapter({name: Factors(torch.ones(1, 3), torch.ones(2, 1), 1.0)}, ours.manifest)
    with pytest.raises(WeftError, match=r"module '.*query' has the shape \[2, 3\] in b"):
        contrast_adapters([ours, narrow], ["a", "b"])
    with pytest.raises(WeftError, match="a label of its own"):
        contrast_adapters([ours, ours], ["a", "a"])


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("bert.embeddings.LayerNorm.bias", ("embeddings", None, "")),
        ("model.embed_tokens.weight", ("embeddings", None, "")),
        ("transformer.wte.weight", ("embeddings", None, "")),
        ("model.layers.3.self_attn.q_proj.weight", ("model.layers", 3, "self_attn.q_proj")),
        ("transformer.h.0.mlp.c_fc.weight", ("transformer.h", 0, "mlp.c_fc")),
        ("decoder.block.2.layer.1.wi.weight", ("decoder.block", 2, "layer.1.wi")),
        ("classifier.0.weight", ("head and rest", None, "")),
        ("lm_head.weight", ("head and rest", None, "")),
    ],
)
def test_places_are_read_off_names(name: str, where: tuple[str, int | None, str]) -> None:
    assert contrast_measure.place(name) == contrast_measure.ModelPlace(*where)


def test_two_stacks_keep_their_names() -> None:
    names = ["encoder.block.0.q", "decoder.block.0.q"]
    parts = [adapter(k, dict.fromkeys(names, 2)) for k in range(2)]
    found: Contrast = contrast_adapters(parts, ["a", "b"])
    assert [row.name for row in found.layers] == ["decoder.block 0", "encoder.block 0"]
