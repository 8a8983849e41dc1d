"""LoRA linears compute and differentiate what their formula says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from weft.adapters import LoraLinear, LoraSettings, attach, initialise, trainable
from weft.adapters.lora import dropped_positions, target_modules
from weft.errors import WeftError

ROWS, IN, OUT, RANK = 21, 12, 10, 4


def linear(p: float, *, bias: bool = True) -> LoraLinear:
    torch.manual_seed(1)
    made = LoraLinear(nn.Linear(IN, OUT, bias=bias), LoraSettings(rank=RANK, alpha=7, dropout=p))
    made.requires_grad_(False)
    made.a.requires_grad_(True)
    made.b.requires_grad_(True)
    with torch.no_grad():
        made.a.normal_()
        made.b.normal_()
    return made.train()


def mask_of(seed: int, size: int, p: float) -> Tensor:
    """The keep mask that a forward pass draws after `manual_seed(seed)`."""
    keep = torch.ones(size, dtype=torch.float64)
    if p:
        torch.manual_seed(seed)
        keep[dropped_positions(size, p)] = 0
    return keep


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("shape", [(ROWS, IN), (3, 7, IN)])
def test_output_and_gradients_are_the_formulas(
    p: float, bias: bool, shape: tuple[int, ...]
) -> None:
    lora = linear(p, bias=bias)
    x = torch.randn(shape, requires_grad=True)
    torch.manual_seed(5)
    out = lora(x)
    upstream = torch.randn(out.shape)
    out.backward(upstream)

    parts = [lora.weight, lora.a, lora.b, x]
    w, a, b, x64 = (part.detach().double().requires_grad_() for part in parts)
    seen = x64 * mask_of(5, x.numel(), p).view(shape) / (1 - p)
    expected = x64 @ w.T + (7 / RANK) * (seen @ a.T) @ b.T
    if bias:
        expected = expected + lora.bias.detach().double()
    expected.backward(upstream.double())

    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    pairs = [(lora.a, a), (lora.b, b), (x, x64)]
    for got, wanted in pairs:
        assert got.grad is not None and wanted.grad is not None
        torch.testing.assert_close(got.grad.double(), wanted.grad, rtol=1e-5, atol=1e-5)
    assert lora.weight.grad is None


def test_bfloat16_is_close_and_factors_keep_float32_gradients() -> None:
    lora = linear(0.0)
    exact = lora(torch.ones(ROWS, IN))
    lora.weight.data, lora.bias.data = lora.weight.bfloat16(), lora.bias.bfloat16()
    out = lora(torch.ones(ROWS, IN, dtype=torch.bfloat16))
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), exact, rtol=0.03, atol=0.1)
    out.sum().backward()
    assert lora.a.grad is not None and lora.a.grad.dtype == torch.float32


def test_evaluation_drops_nothing_and_draws_nothing() -> None:
    lora = linear(0.5).eval()
    x = torch.randn(ROWS, IN)
    before = torch.get_rng_state()
    torch.testing.assert_close(
        lora(x), nn.functional.linear(x, lora.weight, lora.bias) + (x @ lora.a.T @ lora.b.T) * 1.75
    )
    assert torch.equal(before, torch.get_rng_state())


def test_input_is_left_alone() -> None:
    x = torch.randn(ROWS, IN)
    copy = x.clone()
    linear(0.5)(x).sum().backward()
    assert torch.equal(x, copy)


@pytest.mark.parametrize("p", [0.05, 0.5])
def test_each_element_is_dropped_with_chance_p(p: float) -> None:
    """Hoeffding-wide bounds (5 standard deviations of a binomial) for the whole and its parts."""
    torch.manual_seed(0)
    trials, size = 400, 500
    dropped = np.zeros((trials, size), dtype=bool)
    for trial in range(trials):
        dropped[trial, dropped_positions(size, p).numpy()] = True

    def near(counts: np.ndarray, n: int, chance: float) -> bool:
        return bool((abs(counts - n * chance) <= 5 * math.sqrt(n * chance * (1 - chance))).all())

    assert near(dropped.sum(), trials * size, p)
    assert near(dropped.sum(axis=0), trials, p)
    assert near(dropped.sum(axis=1), size, p)
    for shift in (1, 2, 7):  # neighbours, and the same element in the next pass, are independent
        both = dropped[:, shift:] & dropped[:, :-shift]
        assert near(both.sum(), both.size, p * p)
    assert near((dropped[1:] & dropped[:-1]).sum(), (trials - 1) * size, p * p)
    # The number dropped varies as a binomial does: its variance, within 5 standard errors.
    variance = dropped.sum(axis=1).var(ddof=1)
    expected = size * p * (1 - p)
    assert abs(variance - expected) <= 5 * expected * math.sqrt(2 / (trials - 1))


def test_positions_come_from_torchs_seed() -> None:
    torch.manual_seed(4)
    first, second = dropped_positions(1000, 0.1), dropped_positions(1000, 0.1)
    torch.manual_seed(4)
    assert torch.equal(first, dropped_positions(1000, 0.1))
    assert not torch.equal(first, second)
    assert first.min() >= 0 and first.max() < 1000


class Toy(nn.Module):
    """Names that targets could mistake, and dropout of both kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(4, 4)
        self.subquery = nn.Linear(4, 4)
        self.pooler = nn.Sequential(nn.Linear(4, 4))
        self.norm = nn.LayerNorm(4)
        self.drop = nn.Dropout(0.1)
        self.attention_dropout = 0.1


def test_targets_are_names_or_endings() -> None:
    assert target_modules(Toy(), "all-linear") == ["query", "subquery"]
    assert target_modules(Toy(), ["query"]) == ["query"]
    assert target_modules(Toy(), ["0"]) == ["pooler.0"]
    with pytest.raises(WeftError, match=r"no linear module.*nothing"):
        target_modules(Toy(), ["nothing"])


def test_attach_freezes_all_but_the_factors_and_starts_at_the_backbone() -> None:
    toy = Toy()
    weight = toy.query.weight
    attached = attach(toy, LoraSettings(rank=2))
    assert [n for n, p in toy.named_parameters() if p.requires_grad] == [
        n for n, _ in trainable(attached)
    ]
    assert toy.query.weight is weight and toy.drop.p == 0.0 and toy.attention_dropout == 0.0
    initialise(attached, 3)
    x = torch.randn(5, 4)
    assert torch.equal(toy.query.eval()(x), nn.functional.linear(x, weight, toy.query.bias))
    assert attached["query"].a.abs().max() <= 0.5
    assert not torch.equal(attached["query"].a, attached["subquery"].a)
    first = attached["query"].a.clone()
    initialise(attached, 3)
    assert torch.equal(first, attached["query"].a)
    initialise(attached, 4)
    assert not torch.equal(first, attached["query"].a)
