"""Weighted sums of weights, and of task vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from weft.merging.engine.method import Block, Known
from weft.merging.methods.common import shares, weighted_sum
from weft.merging.methods.settings import Settings


class Linear(Settings):
    """Weighted sum of the weights themselves.

    θ = Σ w_k θ_k, by default the mean ("model soups", Wortsman et al. 2022, arXiv 2203.05482). A
    weight of 1 beside zeros gives that part bit for bit.
    """

    name: ClassVar[str] = "linear"
    source: ClassVar[str] = "Wortsman et al. 2022, arXiv 2203.05482"

    normalize: bool = Field(default=False, description="divide the weights by their sum")

    def default_weights(self, parts: int) -> list[float]:
        return [1 / parts] * parts

    def combine(self, block: Block, known: Known) -> Tensor:
        return weighted_sum(block.parts, shares(block) if self.normalize else block.weights)


class TaskArithmetic(Settings):
    """Base plus the weighted sum of task vectors.

    θ = θ_base + s Σ w_k τ_k (Ilharco et al. 2022, arXiv 2212.04089), computed as
    (1 - s Σ w_k) θ_base + Σ s w_k θ_k: where s Σ w_k = 1 the base has no part in it.
    """

    name: ClassVar[str] = "task_arithmetic"
    source: ClassVar[str] = "Ilharco et al. 2022, arXiv 2212.04089"
    needs_base: ClassVar[bool] = True

    scale: float = Field(default=1.0, description="factor on the sum of task vectors")
    normalize: bool = Field(default=False, description="divide the weights by their sum")

    @property
    def keeps_parts(self) -> bool:
        return not self.normalize

    def default_weights(self, parts: int) -> list[float]:
        return [0.2] * parts

    def combine(self, block: Block, known: Known) -> Tensor:
        weights = shares(block) if self.normalize else block.weights
        return on_base(block.parts, [self.scale * w for w in weights], block.base)


def on_base(parts: Sequence[Tensor], weights: Sequence[float], base: Tensor | None) -> Tensor:
    """(1 - Σ w) θ_base + Σ w_k θ_k [n] float32; a base of None is zero."""
    total = weighted_sum(parts, weights)
    rest = math.fsum([1.0, *(-weight for weight in weights)])
    return total if base is None or not rest else total.add_(base, alpha=rest)
