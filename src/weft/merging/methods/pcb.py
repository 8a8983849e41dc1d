"""PCB-Merging: balance the competition of parameters within and between parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from weft.merging.engine.method import Block, Known, Pass, Scope
from weft.merging.engine.ranks import ranks
from weft.merging.methods.base import MergeMethod
from weft.merging.methods.sums import live

_BOUNDS, _CUT = "pcb.bounds", "pcb.cut"
_TAIL = 0.0001  # fraction of magnitudes to be clamped at either end
_LEAST = 1e-12  # of a sum of scores
_EXPONENT = 80  # e to that is well within float32


class Pcb(MergeMethod):
    """Weigh every entry by its size within its part and its agreement with the others.

    With |τ_k| clamped between its .0001 and .9999 quantiles, β_k = exp(K · minmax(|τ_k|)²) ·
    tanh(τ_k Σ_j τ_j); β_k is clamped below at its (1 - density) quantile and scaled to [0, 1];
    τ = scale · Σ w_k β_k τ_k / Σ β_k (Du et al. 2024, arXiv 2410.02396, Eqs. 2 to 5).
    """

    name: ClassVar[str] = "pcb"
    source: ClassVar[str] = "Du et al. 2024, arXiv 2410.02396"
    needs_base: ClassVar[bool] = True
    relative: ClassVar[bool] = True

    density: float = Field(
        default=0.2, gt=0, le=1, description="fraction of scores to keep above 0"
    )
    scope: Scope = Field(
        default="global", description="quantiles of all entries of a part, or of those of a tensor"
    )
    scale: float = Field(default=1.0, description="factor on the merged task vector")

    def passes(self) -> Sequence[Pass]:
        def bounds(n: int, known: Known, k: int) -> list[int]:
            return [int(n * _TAIL), max(0, int(n * (1 - _TAIL) - 1))]

        def cut(n: int, known: Known, k: int) -> list[int]:
            return [min(int(n * (1 - self.density)), n - 1), n - 1]

        return [
            *ranks(_BOUNDS, lambda block, known: block.parts, bounds, scope=self.scope),
            *ranks(_CUT, _scores, cut, signed=True, scope=self.scope),
        ]

    def combine(self, block: Block, known: Known) -> Tensor:
        parts, weights, places = live(block)
        scored = scores(parts, [known[_BOUNDS][k] for k in places])
        total, mass = (torch.zeros_like(block.parts[0]) for _ in range(2))
        for part, score, weight, k in zip(parts, scored, weights, places, strict=True):
            low, high = known[_BOUNDS][k]
            rescale(score, *known[_CUT][k])
            mass.add_(score)
            part.copy_(part.abs().clamp_(low, high).mul_(part.sign()))
            total.add_(part.mul_(score), alpha=self.scale * weight)
        return total.div_(mass.clamp_min_(_LEAST))


def _scores(block: Block, known: Known) -> Sequence[Tensor]:
    """β [K] of a block; a part that takes no part gets zeros."""
    parts, _, places = live(block)
    every = [torch.zeros_like(block.parts[0]) for _ in block.parts]
    for k, score in zip(places, scores(parts, [known[_BOUNDS][k] for k in places]), strict=True):
        every[k] = score
    return every


def scores(parts: Sequence[Tensor], bounds: Sequence[tuple[float, float]]) -> list[Tensor]:
    """β_k = exp(K · minmax(|τ_k|)²) · tanh(τ_k Σ_j τ_j), K new tensors [n] float32."""
    if not parts:
        return []
    total = parts[0].clone()
    for part in parts[1:]:
        total.add_(part)
    betas = []
    for part, (low, high) in zip(parts, bounds, strict=True):
        size = part.abs().clamp_(low, high).sub_(low).div_(high - low if high > low else 1.0)
        # Only ratios of scores count: of very many parts, no exp may leave float32.
        within = size.square_().mul_(len(parts)).sub_(max(0, len(parts) - _EXPONENT)).exp_()
        betas.append(within.mul_((part * total).tanh_()))
    return betas


def rescale(score: Tensor, cut: float, most: float) -> Tensor:
    """Scores clamped below at `cut`, then scaled to [0, 1], in place; where no score exceeds the
    cut, those at it are 1."""
    if most > cut:
        return score.sub_(cut).relu_().div_(most - cut)
    return score.sub_(cut).sign_().add_(1).clamp_(0, 1)
