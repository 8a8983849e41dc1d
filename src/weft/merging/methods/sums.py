"""Small sums that several methods are made of. Blocks are fresh copies: they work in place."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weft.errors import SettingError
from weft.merging.engine.method import Block, Known, Pass

_LEAST = torch.finfo(torch.float32).tiny  # a smaller weight counts as 0 in float32


def live(block: Block) -> tuple[list[Tensor], list[float], list[int]]:
    """The parts that take part, their weights, all positive, and their places in the block.

    A part of weight 0 takes no part. A part τ of weight -w is the part -τ of weight w: a method
    that looks at signs must see it so.
    """
    places = [k for k, weight in enumerate(block.weights) if weight]
    parts = [block.parts[k].neg_() if block.weights[k] < 0 else block.parts[k] for k in places]
    return parts, [abs(block.weights[k]) for k in places], places


def weighted_sum(parts: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Σ w_k x_k [n] float32, in the memory of a part. Weights of 0 are skipped, so that a single
    weight of 1 gives that part's very bits.

    >>> weighted_sum([torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0])], [0.5, 0.25])
    tensor([3., 6.])
    """
    pairs = [(part, weight) for part, weight in zip(parts, weights, strict=True) if weight]
    if not pairs:
        return torch.zeros_like(parts[0])
    (total, first), *others = pairs
    if first != 1:
        total.mul_(first)
    for part, weight in others:
        total.add_(part, alpha=weight)
    return total


def normalized(weights: Sequence[float]) -> list[float]:
    """w_k / Σ w: [K]. Weights that sum to 0 are a `SettingError`.

    >>> normalized([1.0, 3.0])
    [0.25, 0.75]
    """
    total = math.fsum(weights)
    if not total:
        raise SettingError("weights that sum to 0 can't be normalised")
    return [weight / total for weight in weights]


def shares(block: Block) -> list[float]:
    """w_k / Σ w: [K]. Weights that sum to 0 are an error."""
    total = math.fsum(block.weights)
    if not total:
        raise SettingError(f"tensor '{block.name}': weights that sum to 0 can't be normalised")
    return [weight / total for weight in block.weights]


def divide(total: Tensor, mass: Tensor, weights: Sequence[float]) -> Tensor:
    """total / mass [n] in place; where no part has a share, both are 0 and so is the result."""
    return total.div_(mass.clamp_min_(max(min(weights), _LEAST)))


def shrink(part: Tensor, cut: float) -> Tensor:
    """Zero in place all x with |x| < cut; with a cut of 0, none."""
    below = float(np.nextafter(np.float32(cut), np.float32(-1)))
    torch.ops.aten.hardshrink.out(part, below, out=part)
    return part


def equal(values: Sequence[float]) -> bool:
    return all(value == values[0] for value in values)


def gram_pass() -> Pass:
    """Inner products of all pairs of parts of a tensor; `known["gram"]` is [K, K] float64.

    Products and their sums are float32 in a block (summed pairwise), float64 across blocks.
    """

    def look(block: Block, known: Known) -> Tensor:
        return inner_products(block.parts)

    def settle(total: Tensor, known: Known, n: int) -> NDArray[np.float64]:
        products: NDArray[np.float64] = total.numpy()
        return products

    return Pass("gram", look, settle, per_part=False)


def inner_products(parts: Sequence[Tensor], columns: int | None = None) -> Tensor:
    """[K, K] float64; with `columns`, of every row: [rows, K, K]."""
    shape = (1, -1) if columns is None else (-1, columns)
    rows = 1 if columns is None else parts[0].numel() // columns
    products = torch.empty(rows, len(parts), len(parts), dtype=torch.float64)
    product = torch.empty_like(parts[0])
    for i, one in enumerate(parts):
        for j, other in enumerate(parts[: i + 1]):
            torch.mul(one, other, out=product)
            products[:, i, j] = products[:, j, i] = product.view(shape).sum(1)
    return products[0] if columns is None else products
