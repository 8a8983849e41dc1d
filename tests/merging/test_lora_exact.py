"""Weighted sums of adapters, whole and truncated, against ΔW formed in float64."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_adapters import MODULES, adapter, best, delta, summed
from torch import Tensor, nn

from weft.adapters import Adapter, Factors, fold_into, load_adapter, save_adapter
from weft.backbones import load_backbone
from weft.errors import WeftError
from weft.merging import merge_adapters
from weft.merging.engine.source import Memory
from weft.merging.engine.stream import Merge, merge_in_memory
from weft.merging.lora.lowrank import StackedFactors, truncate, truncate_delta
from weft.merging.methods import Linear

SHAPES = {"tall": (40, 12), "wide": (9, 50), "square": (24, 24)}

many = st.lists(
    st.tuples(
        st.integers(0, 999),
        st.integers(1, 9),
        st.sampled_from([-1.5, -0.25, 1e-3, 0.5, 1.0, 3.0]),
        st.sampled_from([0.0625, 1.0, 2.0, 32 / 3]),
        st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=40, deadline=None)
@given(many, st.integers(1, 12))
def test_truncation_is_the_svd_of_the_dense_sum(chosen: list[Any], rank: int) -> None:
    parts = [adapter(s, r, scaling=c, shapes=SHAPES, dtype=d) for s, r, _, c, d in chosen]
    weights = [weight for _, _, weight, _, _ in chosen]
    merged = merge_adapters(parts, weights=weights, rank=rank)
    lost = merged.manifest["merge"]["truncation"]
    for module in SHAPES:
        whole = summed(parts, weights, module)
        near, error = best(whole, rank)
        made = delta(merged, module)
        assert merged.factors[module].rank <= rank
        size = float(whole.norm())
        # As near as any matrix of the rank can be. Near equal singular values may be swapped.
        assert float((whole - made).norm()) <= float((whole - near).norm()) + 1e-5 * size
        assert lost["modules"][module] == pytest.approx(error, rel=5e-3, abs=2e-6)
    assert lost["max"] == max(lost["modules"].values())


@settings(max_examples=30, deadline=None)
@given(many)
def test_with_room_for_every_rank_nothing_is_lost(chosen: list[Any]) -> None:
    parts = [adapter(s, r, scaling=c, shapes=SHAPES, dtype=d) for s, r, _, c, d in chosen]
    weights = [weight for _, _, weight, _, _ in chosen]
    merged = merge_adapters(parts, "concat", weights, rank=40)
    assert merged.manifest["merge"]["truncation"]["max"] == 0
    for module in SHAPES:
        whole = summed(parts, weights, module)
        off = float((delta(merged, module) - whole).norm())
        assert off <= 1e-6 * sum(
            abs(w) * float(delta(p, module).norm()) for p, w in zip(parts, weights, strict=True)
        )


@pytest.mark.parametrize("shape", [(300, 200), (20, 500), (500, 20)])
def test_a_wide_spectrum_keeps_its_small_end(shape: tuple[int, int]) -> None:
    """Singular values from 1 to 1e-5 at rank 8: those of the result are right one by one."""
    out, inside = shape
    random = torch.Generator().manual_seed(0)
    sizes = 10.0 ** -torch.arange(0, 6, 0.25, dtype=torch.float64)  # 24 values
    left, right = (
        torch.linalg.qr(torch.randn(n, min(24, n), generator=random, dtype=torch.float64))[0]
        for n in (out, inside)
    )
    count = min(left.shape[1], right.shape[1])
    sizes = sizes[:count]
    matrix = left[:, :count] * sizes @ right[:, :count].T
    turn = torch.randn(count, count, generator=random, dtype=torch.float64)
    stack = StackedFactors(
        (turn @ right[:, :count].T).float(),
        (torch.linalg.solve(turn.T, (left[:, :count] * sizes).T).T).float(),
    )
    exact = stack.b.double() @ stack.a.double()
    for made in (truncate(stack, 18), truncate_delta(exact.float(), 18)):
        found = torch.linalg.svdvals(made.factors.b.double() @ made.factors.a.double())[:18]
        torch.testing.assert_close(found, torch.linalg.svdvals(exact)[:18], rtol=0, atol=2e-6)
        assert made.error == pytest.approx(best(exact, 18)[1], rel=0.2)
        assert float((matrix - exact).norm()) < 1e-5


def test_singular_values_are_shared_out_evenly() -> None:
    merged = merge_adapters([adapter(k, 4, shapes=SHAPES) for k in range(3)], rank=5)
    for factors in merged.factors.values():
        assert factors.scaling == 1.0
        torch.testing.assert_close(factors.a.norm(dim=1), factors.b.norm(dim=0))
        product = factors.b.T @ factors.b
        torch.testing.assert_close(product, torch.diag(product.diagonal()), rtol=0, atol=1e-3)


@pytest.mark.parametrize("rank", [None, 1, 2, 8])
def test_deficient_parts(rank: int | None) -> None:
    """Untrained parts (B = 0), parts that cancel, one A in all parts, and weights of 0."""
    one, two = adapter(1, 6, shapes=SHAPES), adapter(2, 6, shapes=SHAPES)
    dead = Adapter(
        {n: replace(f, b=torch.zeros_like(f.b)) for n, f in one.factors.items()}, one.manifest
    )
    same_a = Adapter(
        {n: replace(f, b=two.factors[n].b) for n, f in one.factors.items()}, one.manifest
    )
    cases: list[tuple[list[Adapter], list[float]]] = [
        ([dead, dead], [1.0, 1.0]),
        ([one, dead], [0.5, 0.5]),
        ([one, one], [1.0, -1.0]),
        ([one, same_a, one], [0.2, 0.3, 0.5]),
        ([one, two], [0.0, 0.0]),
    ]
    for parts, weights in cases:
        merged = merge_adapters(parts, weights=weights, rank=rank)
        for module in SHAPES:
            whole = summed(parts, weights, module)
            near, _ = best(whole, rank or 99)
            scale = max(float(delta(one, module).norm()), 1.0)
            off = float((whole - delta(merged, module)).norm())
            assert off <= float((whole - near).norm()) + 1e-6 * scale


def test_huge_and_tiny_numbers_survive() -> None:
    one, two = adapter(1, 6, shapes=SHAPES), adapter(2, 6, shapes=SHAPES)
    for size in (1e-18, 1e18):
        parts = [
            Adapter(
                {n: Factors(f.a * size, f.b / size, f.scaling) for n, f in part.factors.items()},
                part.manifest,
            )
            for part in (one, two)
        ]
        merged = merge_adapters(parts, rank=3)
        for module in SHAPES:
            whole = summed([one, two], [0.5, 0.5], module)
            off = float((whole - delta(merged, module)).norm())
            assert off <= float((whole - best(whole, 3)[0]).norm()) * (1 + 1e-5)
    large = merge_adapters([one, two], weights=[1e20, 1e20], rank=3)
    torch.testing.assert_close(
        large.factors["wide"].delta() / 1e20,
        merge_adapters([one, two], weights=[1, 1], rank=3).factors["wide"].delta(),
    )
    giants = [
        Adapter(
            {n: Factors(f.a * 1e20, f.b * 1e20, f.scaling * 1e-40) for n, f in p.factors.items()},
            p.manifest,
        )
        for p in (one, two)
    ]
    for count in (1, 2):  # fewer and more ranks than a side of ΔW
        made = merge_adapters(giants[:count], weights=[1.0] * count, rank=3)
        whole = summed([one, two][:count], [1.0] * count, "wide")
        off = float((whole - delta(made, "wide")).norm())
        assert off <= float((whole - best(whole, 3)[0]).norm()) * (1 + 1e-5)
    with pytest.raises(WeftError, match=r"module 'tall'.* too large"):
        merge_adapters([one, two], weights=[1e300, 1e300])


@pytest.mark.parametrize("space", ["delta", "factors"])
@pytest.mark.parametrize("rank", [None, 2, 8])
def test_a_single_weight_of_one_gives_that_part_bit_for_bit(space: Any, rank: int | None) -> None:
    parts = [adapter(k, scaling=0.7) for k in range(3)]
    merged = merge_adapters(parts, weights=[0, 1, 0], space=space, rank=rank)
    for module in MODULES:
        own, made = parts[1].factors[module], merged.factors[module]
        assert torch.equal(own.a, made.a) and torch.equal(own.b, made.b)
        assert own.scaling == made.scaling
    halved = merge_adapters(parts, weights=[0, 0.5, 0]).factors["query"]
    assert torch.equal(halved.b, parts[1].factors["query"].b) and halved.scaling == 0.35


def test_every_bit_is_the_same_at_any_threads_and_order() -> None:
    parts = [adapter(k, 3 + k, shapes=SHAPES) for k in range(4)]
    weights = [0.1, 0.2, 0.3, 0.4]
    for method, rank in [
        ("linear", None),
        ("linear", 4),
        ("lego", None),
        ("ties", 3),
        ("knots", None),
    ]:
        first = merge_adapters(parts, method, weights, rank=rank, threads=1)
        order = [2, 0, 3, 1]
        turned = [parts[k] for k in order], method, [weights[k] for k in order]
        again = merge_adapters(
            *turned, rank=rank, threads=2, labels=[f"part {k + 1}" for k in order]
        )
        assert first.weights_hash == again.weights_hash, method


def test_task_arithmetic_and_normalised_weights_are_sums_too() -> None:
    parts = [adapter(1), adapter(2)]
    made = merge_adapters(parts, {"name": "task_arithmetic", "scale": 0.5}, [1.0, 3.0])
    torch.testing.assert_close(
        delta(made, "query"), summed(parts, [0.5, 1.5], "query"), rtol=1e-5, atol=1e-6
    )
    made = merge_adapters(parts, {"name": "linear", "normalize": True}, [1.0, 3.0])
    torch.testing.assert_close(
        delta(made, "query"), summed(parts, [0.25, 0.75], "query"), rtol=1e-5, atol=1e-6
    )
    assert made.manifest["merge"]["settings"] == {"normalize": True}


IDS = torch.tensor([[2, 6, 14, 3], [2, 9, 3, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])


def hidden(model: nn.Module) -> Tensor:
    with torch.no_grad():
        out: Tensor = model(input_ids=IDS, attention_mask=MASK).last_hidden_state
    return out[MASK.bool()]


def of_encoder(folder: Path) -> list[Adapter]:
    """Three adapters of the encoder's linears, of different ranks and scalings."""
    model = load_backbone(str(folder), precision="float32").model
    shapes = {
        name: (linear.out_features, linear.in_features)
        for name, linear in model.named_modules()
        if isinstance(linear, nn.Linear)
    }
    small = [adapter(k, 2 + k, 0.04 + 0.02 * k, shapes=shapes) for k in range(3)]
    small[2] = replace(small[2], factors=dict(list(small[2].factors.items())[1:]))
    return small


@pytest.mark.parametrize(
    ("method", "rank"),
    [("linear", None), ("linear", 3), ("ties", 4), ("ties", None), ("lego", None), ("knots", None)],
)
def test_a_merge_loads_in_plain_peft(
    method: str, rank: int | None, tiny_encoder: Path, tmp_path: Path
) -> None:
    from peft import PeftModel

    merged = merge_adapters(of_encoder(tiny_encoder), method, [0.5, 0.3, -0.4], rank=rank)
    save_adapter(merged, tmp_path / "merged")
    ours = load_backbone(str(tiny_encoder), precision="float32").model
    before = hidden(ours)
    fold_into(ours, load_adapter(tmp_path / "merged", lazy=True))
    base = load_backbone(str(tiny_encoder), precision="float32").model
    theirs = PeftModel.from_pretrained(base, tmp_path / "merged").eval()
    torch.testing.assert_close(hidden(theirs), hidden(ours), rtol=1e-4, atol=1e-5)
    assert float((hidden(ours) - before).abs().max()) > 1e-2


def test_merging_adapters_then_folding_is_folding_then_merging(tiny_bert: Path) -> None:
    parts, weights = of_encoder(tiny_bert), [0.5, 0.3, 0.2]

    def weights_of(one: Adapter) -> dict[str, Tensor]:
        model = load_backbone(str(tiny_bert), precision="float32").model
        fold_into(model, one)
        return {n: t for n, t in model.state_dict().items() if "pooler" not in n}  # not its own

    folded = [Memory(f"part {k}", weights_of(part)) for k, part in enumerate(parts)]
    expected = merge_in_memory(Merge(folded, Linear(), lambda name: weights))
    made = weights_of(merge_adapters(parts, weights=weights))
    assert made.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(made[name], tensor, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rslora", [False, True])
def test_what_peft_trained_with_patterns_is_merged_as_peft_applies_it(
    rslora: bool, tiny_bert: Path, tmp_path: Path
) -> None:
    """Two of PEFT's own folders, α ≠ r, other ranks and α for some modules; ΔW as PEFT has it."""
    from peft import LoraConfig, get_peft_model

    expected: dict[str, Tensor] = {}
    folders: list[Path] = []
    for number, weight in enumerate((0.25, 0.75)):
        torch.manual_seed(number)
        backbone = load_backbone(str(tiny_bert), precision="float32")
        config = LoraConfig(
            r=3 + number,
            lora_alpha=7,
            target_modules=["query", "value"],
            use_rslora=rslora,
            init_lora_weights=False,
            rank_pattern={"layer.1.attention.self.query": 2 + number},
            alpha_pattern={"layer.0.attention.self.value": 5 - number},
        )
        theirs = get_peft_model(backbone.model, config)
        folders.append(tmp_path / str(number))
        theirs.save_pretrained(folders[-1])
        manifest = {"backbone": {"name": "tiny", "fingerprint": backbone.fingerprint}}
        (folders[-1] / "weft.json").write_text(json.dumps(manifest))
        for name, module in theirs.named_modules():
            if hasattr(module, "get_delta_weight"):
                own = weight * module.get_delta_weight("default").detach()
                key = name.removeprefix("base_model.model.")
                expected[key] = expected[key] + own if key in expected else own
    parts = [load_adapter(folder, lazy=True) for folder in folders]
    merged = merge_adapters(parts, weights=[0.25, 0.75])
    assert set(merged.factors) == set(expected)
    for module, own in expected.items():
        torch.testing.assert_close(merged.factors[module].delta(), own, rtol=1e-5, atol=1e-6)
