"""Methods that keep some entries of each part by their magnitude, and sum or average them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from weft.merging.method import Block, Known, Pass
from weft.merging.methods.common import divide, equal, live, shrink, weighted_sum
from weft.merging.methods.linear import TaskArithmetic
from weft.merging.methods.settings import Inner, Settings, Wrapper
from weft.merging.methods.trim import Trim, cuts, density_field, parts_of, trim_field, trimmed
from weft.merging.ranks import ranks


class MagnitudePrune(Settings):
    """Keep the largest entries of each task vector, then sum by weight.

    τ = Σ w_k τ'_k, τ'_k the entries of τ_k whose magnitude is among the density's largest: TIES
    (arXiv 2306.01708) without electing signs; PEFT has it by this name.
    """

    name: ClassVar[str] = "magnitude_prune"
    source: ClassVar[str] = "trimming alone of Yadav et al. 2023, arXiv 2306.01708"
    needs_base: ClassVar[bool] = True
    relative: ClassVar[bool] = True

    density: float = density_field(0.2)
    trim: Trim = trim_field("tensor")

    @property
    def keeps_parts(self) -> bool:
        return True

    def default_weights(self, parts: int) -> list[float]:
        return [1 / parts] * parts

    def passes(self) -> Sequence[Pass]:
        return cuts("prune.cut", self.density, self.trim)

    def combine(self, block: Block, known: Known) -> Tensor:
        every = range(len(block.parts))
        return weighted_sum(trimmed(block.parts, known, "prune.cut", every), block.weights)


class LocalizeAndStitch(Settings):
    """Keep the largest entries of each task vector, average where several parts keep one.

    τ = Σ w_k m_k τ_k / Σ w_k m_k, m_k = 1 for the density's largest of |τ_k|
    (He et al. 2024, arXiv 2408.13656, the variant without data).
    """

    name: ClassVar[str] = "localize_and_stitch"
    source: ClassVar[str] = "He et al. 2024, arXiv 2408.13656"
    needs_base: ClassVar[bool] = True
    relative: ClassVar[bool] = True

    density: float = density_field(0.05)
    trim: Trim = trim_field("global")

    def passes(self) -> Sequence[Pass]:
        return cuts("localize.cut", self.density, self.trim)

    def combine(self, block: Block, known: Known) -> Tensor:
        parts, weights, places = live(block)
        return stitch(trimmed(parts, known, "localize.cut", places), weights, block.parts[0])


def stitch(parts: Sequence[Tensor], weights: Sequence[float], like: Tensor) -> Tensor:
    """Σ w_k τ_k / Σ w_k over the parts with τ_k ≠ 0: [n] float32."""
    total, mass = torch.zeros_like(like), torch.zeros_like(like)
    if not parts:
        return total
    if equal(weights):
        weights = [1.0] * len(parts)
    for part, weight in zip(parts, weights, strict=True):
        total.add_(part, alpha=weight)
        mass.add_(part.sign_().abs_(), alpha=weight)
    return divide(total, mass, weights)


class Breadcrumbs(Wrapper):
    """Drop the smallest and the very largest entries of each task vector, then merge.

    Of the n entries of a tensor in order of magnitude, int(gamma · n) at the upper end are
    dropped (fewer, if density leaves less room), int(density · n) below these kept, the rest
    dropped (Davari and Belilovsky 2023, arXiv 2312.06795).
    """

    name: ClassVar[str] = "breadcrumbs"
    source: ClassVar[str] = "Davari and Belilovsky 2023, arXiv 2312.06795"

    density: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="fraction of each part's entries to keep; ties are all kept",
    )
    gamma: float = Field(default=0.01, ge=0, lt=1, description="fraction to drop at the upper end")
    trim: Trim = trim_field("tensor")
    then: Inner = Field(default=TaskArithmetic(), description="the method that merges what is left")

    def measures(self) -> Sequence[Pass]:
        def at(n: int, known: Known) -> list[int]:
            keep = max(1, int(self.density * n))
            above = min(int(self.gamma * n), n - keep)
            return [n - above - keep, n - above - 1]

        return ranks("crumbs", parts_of, at, scope=self.trim)

    def thin(self, block: Block, known: Known) -> Sequence[Tensor]:
        return [
            shrink(part, low).sub_(torch.nn.functional.hardshrink(part, high))
            for part, (low, high) in zip(block.parts, known["crumbs"], strict=True)
        ]
