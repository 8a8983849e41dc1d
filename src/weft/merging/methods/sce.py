"""SCE: select, calculate, erase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from weft.merging.engine.masks import at_least
from weft.merging.engine.method import Block, Known, Pass
from weft.merging.engine.order import Take, bound_of, bounds, equals_out
from weft.merging.mergekit.forms import MergekitForm, Options
from weft.merging.mergekit.parameters import ParameterReader
from weft.merging.methods.base import MergeMethod
from weft.merging.methods.sums import divide, live
from weft.merging.methods.ties import agreeing, elected
from weft.merging.methods.trim import Keep, keep_field

_CHANGED, _CUT, _SQUARES = "sce.changed", "sce.cut", "sce.squares"
_TAKES: tuple[Take, ...] = ("first",)


class Sce(MergeMethod):
    """Keep the entries on which the parts differ most, weigh parts by what they keep, elect signs.

    Select the entries of a tensor whose variance across parts is among the density's largest;
    calculate η_k = Σ τ_k² / Σ_j Σ τ_j² over these; erase the entries of the minority's sign:
    τ = Σ η_k τ_k / Σ η_k over the parts that agree (Wan et al. 2024, arXiv 2408.07990, section 3.3).
    """

    name: ClassVar[str] = "sce"
    source: ClassVar[str] = "Wan et al. 2024, arXiv 2408.07990"
    needs_base: ClassVar[bool] = True
    relative: ClassVar[bool] = True

    density: float = Field(
        default=0.1, gt=0, le=1, description="fraction of a tensor's entries to select"
    )
    keep: Keep = keep_field("all that tie with the last one selected are selected, at least one")
    among: Literal["all", "changed"] = Field(
        default="all",
        description="the fraction is of all entries, or (as in mergekit) of those whose variance "
        "is not 0",
    )
    normalize: bool = Field(
        default=True,
        description="divide by the coefficients of the parts that agree; else just sum",
    )
    alike: float = Field(
        default=0.0,
        ge=0,
        description="parts count alike in a tensor where their mean squares sum to less than this "
        "(in mergekit 1e-6, which task vectors of usual size do not reach)",
    )

    @classmethod
    def mergekit_forms(cls) -> Mapping[str, MergekitForm]:
        return {"sce": MergekitForm("origin", _from_mergekit, ("select_topk",), ranks=True)}

    def passes(self) -> Sequence[Pass]:
        passes = []
        if self.density < 1 and self.among == "changed":
            passes.append(Pass(_CHANGED, _count_changed, _number, per_part=False))
        if self.density < 1:
            cut = bounds(_CUT, _variances, self._position, _TAKES, per_part=False)
            passes += cut if self.keep == "exact" else cut[:2]  # positions are for breaking ties
        return [*passes, Pass(_SQUARES, self._sum_squares, self._settle_squares)]

    def combine(self, block: Block, known: Known) -> Tensor:
        parts, weights, places = self._selected(block, known)
        if not parts:
            return torch.zeros_like(block.parts[0])
        squares = [known[_SQUARES][k] for k in places]
        weights = coefficients(squares, weights)
        sign = elected(parts, None, 1)
        total, mass = agreeing(parts, weights, sign)
        if self.normalize:
            divide(total, mass, [weight for weight in weights if weight])
        return total.mul_(sign)

    def _settle_squares(self, total: Tensor, known: Known, n: int) -> list[float]:
        squares: list[float] = total.tolist()
        return [0.0] * len(squares) if sum(squares) < self.alike * n else squares

    def _position(self, n: int, known: Known, k: int) -> list[int]:
        return [n - min(n, max(1, int(self.density * known.get(_CHANGED, n))))]

    def _selected(self, block: Block, known: Known) -> tuple[list[Tensor], list[float], list[int]]:
        """The parts that take part, all but the selected entries zeroed."""
        parts, weights, places = live(block)
        bound = bound_of(known, _CUT, 0, _TAKES)
        if bound is None or not parts:
            return parts, weights, places
        apart = variance(parts)
        least = bound[0].value
        if self.among == "changed":
            least = max(least, float(np.nextafter(np.float32(0), np.float32(1))))
        mask = at_least(apart.numpy(), least)
        if self.keep == "exact":
            out = equals_out(apart, bound[0], block.start)
            if out is not None:
                mask[out] = 0
            if int(self.density * known.get(_CHANGED, known[f"{_CUT}.tied"][0][0].among)) < 1:
                mask.zero_()
        return [part.mul_(mask) for part in parts], weights, places

    def _sum_squares(self, block: Block, known: Known) -> Tensor:
        """Σ τ_k² over the selected entries: [K] float64."""
        squares = torch.zeros(len(block.parts), dtype=torch.float64)
        parts, _, places = self._selected(block, known)
        for part, k in zip(parts, places, strict=True):
            squares[k] = part.square_().sum()
        return squares


def variance(parts: Sequence[Tensor]) -> Tensor:
    """Σ (τ_k - mean)² [n] float32, K times the variance: a new tensor.

    Of differences from the first part, so that it is exactly 0 where all parts are equal.
    """
    apart = [torch.sub(part, parts[0]) for part in parts[1:]]
    mean = torch.zeros_like(parts[0])
    for one in apart:
        mean.add_(one)
    mean.div_(len(parts))
    total = mean.square()  # of the first part
    for one in apart:
        one.sub_(mean)
        total.addcmul_(one, one)
    return total


def coefficients(squares: Sequence[float], weights: Sequence[float]) -> list[float]:
    """w_k Σ τ_k² / Σ_j Σ τ_j² [K]; w_k / K where nothing is left of any part."""
    total = sum(squares)
    share = [one / total if total else 1 / len(squares) for one in squares]
    return [weight * one for weight, one in zip(weights, share, strict=True)]


def _variances(block: Block, known: Known) -> Sequence[Tensor]:
    parts, _, _ = live(block)
    return [variance(parts) if parts else torch.zeros_like(block.parts[0])]


def _count_changed(block: Block, known: Known) -> Tensor:
    return torch.tensor([np.count_nonzero(_variances(block, known)[0].numpy())])


def _number(total: Tensor, known: Known, n: int) -> int:
    return int(total[0])


def _from_mergekit(reader: ParameterReader) -> tuple[dict[str, Any], Options]:
    share = reader.option("select_topk", 1.0)
    settings = {"name": "sce", "density": share, "among": "changed", "keep": "exact"}
    return settings | {"alike": 1e-6}, {}
