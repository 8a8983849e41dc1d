"""Ext-Sub: what two task vectors have in common, row by row."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from weft.merging.engine.method import Block, Known
from weft.merging.methods.base import MergeMethod


class ExtSub(MergeMethod):
    """Add what the second part has in common with the first, or subtract what it has not.

    For rows a, b of the two task vectors and c = unit(unit(a) + unit(b)), the common part of b is
    (b · c) c; merge gives a + α (b · c) c, unlearn a - α (b - (b · c) c) (Hu et al. 2023,
    arXiv 2308.08090, which has only the latter). As (b · c) c = (b + a |b|/|a|)/2, opposite rows
    need no special care; a zero row has nothing in common with any.
    """

    name: ClassVar[str] = "ext_sub"
    source: ClassVar[str] = "Hu et al. 2023, arXiv 2308.08090"
    needs_base: ClassVar[bool] = True
    relative: ClassVar[bool] = True
    rows: ClassVar[bool] = True
    symmetric: ClassVar[bool] = False
    takes: ClassVar[Literal["2"]] = "2"

    alpha: float = Field(
        default=1.0, description="how much of the second part's share to add or subtract"
    )
    mode: Literal["merge", "unlearn"] = Field(
        default="merge", description="add the common part, or subtract the rest"
    )

    def combine(self, block: Block, known: Known) -> Tensor:
        one, other = (
            (part if weight == 1 else part.mul_(weight)).view(-1, block.columns)
            for part, weight in zip(block.parts, block.weights, strict=True)
        )
        common = common_part(one, other)
        if self.mode == "merge":
            return one.add_(common, alpha=self.alpha).view(-1)
        return one.sub_(other.sub_(common), alpha=self.alpha).view(-1)


def common_part(one: Tensor, other: Tensor) -> Tensor:
    """(b · c) c for every row b of `other`: a new tensor [rows, columns] float32."""
    lengths, wanted = (torch.linalg.vector_norm(x, dim=1, keepdim=True) for x in (one, other))
    there = (lengths > 0).to(torch.float32)
    ratio = wanted / (lengths + (1 - there))
    return one.mul(ratio).add_(other).mul_(0.5 * there)
