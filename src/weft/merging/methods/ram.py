"""RAM: what one part alone changed is kept whole, what several changed is averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from weft.merging.engine.method import Block, Known, Pass
from weft.merging.mergekit.forms import MergekitForm, Options
from weft.merging.mergekit.parameters import ParameterReader
from weft.merging.methods.base import MergeMethod
from weft.merging.methods.sums import live

_COUNTS = "ram.counts"


class Ram(MergeMethod):
    """Keep what only one part changed, average what several changed.

    With m_k = [|τ_k| > ε] and c = Σ m_k: τ = Σ_k w_k m_k τ_k λ_k where c = 1, Σ_k w_k m_k τ_k / c
    where c > 1. λ_k = 1 + boost · min(shared_k / unique_k, most), counts of the part's entries with
    c > 1 and c = 1 in the tensor (RAM, and RAM+ with a boost; arXiv 2601.13572).
    """

    name: ClassVar[str] = "ram"
    source: ClassVar[str] = "arXiv 2601.13572"
    needs_base: ClassVar[bool] = True
    relative: ClassVar[bool] = True

    epsilon: float = Field(default=1e-5, ge=0, description="smaller changes count as none")
    boost: float = Field(
        default=0.0, ge=0, description="r: how much more a part's own entries get; RAM+ has 0.1"
    )
    most: float = Field(
        default=0.2, ge=0, description="α: bound of the ratio of shared to own entries"
    )

    @classmethod
    def mergekit_forms(cls) -> Mapping[str, MergekitForm]:
        return {
            "ram": MergekitForm("origin", _from_mergekit, ("epsilon",)),
            "ramplus_tl": MergekitForm("origin", _from_mergekit, ("epsilon", "r", "alpha")),
        }

    def passes(self) -> Sequence[Pass]:
        return [Pass(_COUNTS, self._count, lambda total, known, n: total.tolist())] * bool(
            self.boost
        )

    def combine(self, block: Block, known: Known) -> Tensor:
        parts, weights, places = live(block)
        total = torch.zeros_like(block.parts[0])
        if not parts:
            return total
        masks = self._masks(parts)
        count = torch.stack(masks).sum(0)
        shared = count.clamp(min=1)
        for part, weight, k, mask in zip(parts, weights, places, masks, strict=True):
            part.mul_(mask).div_(shared)
            if self.boost:
                factor = self._factor(*known[_COUNTS][k])
                part.mul_(torch.where(count == 1, factor, 1.0))
            total.add_(part, alpha=weight)
        return total

    def _factor(self, shared: int, alone: int) -> float:
        """λ of a part."""
        return 1 + self.boost * min(shared / max(alone, self.epsilon or 1e-5), self.most)

    def _masks(self, parts: Sequence[Tensor]) -> list[Tensor]:
        return [(part.abs() > self.epsilon).to(torch.float32) for part in parts]

    def _count(self, block: Block, known: Known) -> Tensor:
        """Entries that are shared and that are a part's alone: [K, 2] int64."""
        counts = torch.zeros(len(block.parts), 2, dtype=torch.int64)
        parts, _, places = live(block)
        masks = self._masks(parts)
        count = torch.stack(masks).sum(0) if masks else None
        for k, mask in zip(places, masks, strict=True):
            assert count is not None
            counts[k, 0] = int((mask * (count > 1)).count_nonzero())
            counts[k, 1] = int((mask * (count == 1)).count_nonzero())
        return counts


def _from_mergekit(reader: ParameterReader) -> tuple[dict[str, Any], Options]:
    settings = {"name": "ram", "epsilon": reader.option("epsilon", 1e-5)}
    if reader.method == "ramplus_tl":
        settings |= {"boost": reader.option("r", 0.1), "most": reader.option("alpha", 0.2)}
    return settings, {}
