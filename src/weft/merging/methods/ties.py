"""TIES: trim, elect a sign, average those that agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from weft.merging.engine.method import Block, Known, Pass
from weft.merging.mergekit.forms import (
    SPARSE,
    MergekitForm,
    Options,
    consensus,
    option_of_parts,
    part_weights,
    with_keep,
)
from weft.merging.mergekit.parameters import ParameterReader
from weft.merging.methods.base import MergeMethod
from weft.merging.methods.sums import divide, equal, live, weighted_sum
from weft.merging.methods.trim import (
    Keep,
    Rescale,
    Trim,
    cuts,
    density_field,
    keep_field,
    norms,
    rescale_field,
    rescaled,
    trim_field,
    trimmed,
)

_CUT, _NORMS, _MAJORITY = "ties.cut", "ties.norms", "ties.majority"


class Ties(MergeMethod):
    """Keep the largest entries, elect a sign per entry, average the parts that have it.

    τ'_k = τ_k where |τ_k| is among the density's largest, else 0; γ = sign Σ τ'_k;
    τ = scale · mean of the τ'_k whose sign is γ, by their weights
    (Yadav et al. 2023, arXiv 2306.01708, Algorithm 1).
    """

    name: ClassVar[str] = "ties"
    source: ClassVar[str] = "Yadav et al. 2023, arXiv 2306.01708"
    needs_base: ClassVar[bool] = True
    relative: ClassVar[bool] = True
    options_by_part: ClassVar[tuple[str, ...]] = ("density",)

    density: float = density_field(0.2)
    keep: Keep = keep_field(
        "int(density · n) + 1 entries and all that tie with the smallest of them stay, as in the "
        "authors' code"
    )
    trim: Trim = trim_field("global")
    rescale: Rescale = rescale_field()
    elect: Literal["unweighted", "weighted"] = Field(
        default="unweighted",
        description="sign of the sum of trimmed task vectors, or of w_k times these",
    )
    votes: Literal["float32", "float16", "bfloat16"] = Field(
        default="float32",
        description="dtype of the terms of that sum, and of the sum: in few bits it is more often "
        "0 (as in mergekit, which has the dtype of the merge)",
    )
    zeros: Literal["majority", "positive"] = Field(
        default="majority",
        description="sign where that sum is 0: the one that most entries of the model have (as the "
        "authors do; costs one more pass over the data), or always +",
    )
    normalize: bool = Field(
        default=True,
        description="divide by the weights of the parts that agree; else just sum them",
    )
    weigh: Literal["within", "after"] = Field(
        default="within",
        description="within: parts of weight 0 have no vote, and a mean is by weights; after: the "
        "plain mean is taken apart again into what each part gave to it, and w_k multiplies that "
        "(MergeRec; elect must be unweighted)",
    )
    variant: Literal["canonical", "mmgrid"] = Field(
        default="canonical",
        description="mmgrid: weights are multiplied into the task vectors before trimming, and "
        "the sum of those that agree is divided by K only where all K do (elect and normalize "
        "then have no effect)",
    )
    scale: float = Field(default=1.0, description="factor on the merged task vector")

    @classmethod
    def mergekit_forms(cls) -> Mapping[str, MergekitForm]:
        return {"ties": MergekitForm("origin", _from_mergekit, SPARSE, ranks=True)}

    @model_validator(mode="after")
    def _apart(self) -> Ties:
        if self.weigh == "after" and (self.elect, self.variant) != ("unweighted", "canonical"):
            raise ValueError("weigh: after needs elect: unweighted and variant: canonical")
        return self

    @property
    def keeps_parts(self) -> bool:
        return self.weigh == "after"

    @property
    def skips_zero(self) -> bool:
        return self.weigh == "within"  # after: such parts vote

    def passes(self) -> Sequence[Pass]:
        # The authors keep all entries not below the (n - int(density · n))-th smallest: one more.
        passes = cuts(_CUT, self.density, self.trim, self.keep, values=self._weighted, more=1)
        if self.rescale == "l1":
            passes.append(norms(_NORMS, self._all_cut))
        if self.zeros == "majority":
            passes.append(Pass(_MAJORITY, self._count_signs, _sign_of, "global", per_part=False))
        return passes

    def combine(self, block: Block, known: Known) -> Tensor:
        parts, weights = self._trimmed(block, known)
        if not parts:
            return torch.zeros_like(block.parts[0])
        voted = weights if self.elect == "weighted" else None
        sign = elected(parts, voted, known.get(_MAJORITY, 1), getattr(torch, self.votes))
        if self.weigh == "after":
            total = self._shared_out(parts, block.weights, sign)
            return total if self.scale == 1 else total.mul_(self.scale)
        if self.normalize and equal(weights):
            weights = [1.0] * len(parts)
        total, mass = agreeing(parts, weights, sign)
        if self.variant == "mmgrid":
            # 1, but K where all K agree
            total.div_(mass.sub_(len(parts) - 1).relu_().mul_(len(parts) - 1).add_(1))
        elif self.normalize:
            divide(total, mass, weights)
        total.mul_(sign)
        return total if self.scale == 1 else total.mul_(self.scale)

    def _shared_out(
        self, parts: Sequence[Tensor], weights: Sequence[float], sign: Tensor
    ) -> Tensor:
        """Σ w_k v_k [n], v_k = the part's share in the mean of those that agree: τ'_k / how many do
        (with `normalize`; else τ'_k), or 0 where it has another sign. Overwrites the parts."""
        total, mass = torch.zeros_like(sign), torch.zeros_like(sign)
        for part, weight in zip(parts, weights, strict=True):
            part.mul_(sign).relu_()
            total.add_(part, alpha=weight)
            mass.add_(part.sign_())
        if self.normalize:
            total.div_(mass.clamp_min_(1.0))
        return total.mul_(sign)

    def _weighted(self, block: Block, known: Known) -> Sequence[Tensor]:
        """What is trimmed [K]: the task vectors, or w_k times these."""
        if self.variant == "canonical":
            return block.parts
        return [part.mul_(w) for part, w in zip(block.parts, block.weights, strict=True)]

    def _trimmed(self, block: Block, known: Known) -> tuple[Sequence[Tensor], list[float]]:
        """The trimmed parts that take part, and their weights."""
        if self.weigh == "after":
            every = range(len(block.parts))
            return self._cut(block.parts, block, known, every), [1.0] * len(block.parts)
        places = [k for k, weight in enumerate(block.weights) if weight]
        if self.variant == "mmgrid":
            parts, weights = self._weighted(block, known), [1.0] * len(places)
            return self._cut([parts[k] for k in places], block, known, places), weights
        live_parts, weights, _ = live(block)
        return self._cut(live_parts, block, known, places), weights

    def _cut(
        self, parts: Sequence[Tensor], block: Block, known: Known, places: Sequence[int]
    ) -> Sequence[Tensor]:
        cut = trimmed(parts, block, known, _CUT, places, self.trim, self.density)
        return rescaled(cut, known, _NORMS, places)

    def _all_cut(self, block: Block, known: Known) -> Sequence[Tensor]:
        """The K parts trimmed, whatever their weights."""
        parts = self._weighted(block, known)
        every = range(len(parts))
        return trimmed(parts, block, known, _CUT, every, self.trim, self.density)

    def _count_signs(self, block: Block, known: Known) -> Tensor:
        """Number of entries elected + less the number elected -: [1] int64."""
        parts, weights = self._trimmed(block, known)
        if not parts:
            return torch.zeros(1, dtype=torch.int64)
        voted = weights if self.elect == "weighted" else None
        total = votes(parts, voted, getattr(torch, self.votes)).numpy()
        return torch.tensor([np.count_nonzero(total > 0) - np.count_nonzero(total < 0)])


def _sign_of(total: Tensor, known: Known, n: int) -> int:
    # The authors' comparisons read a majority of neither sign as -.
    return 1 if int(total[0]) > 0 else -1


def votes(
    parts: Sequence[Tensor],
    weights: Sequence[float] | None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Σ τ_k, or Σ w_k τ_k: a new tensor [n] float32; in `dtype` terms and sum are rounded to it."""
    by = weights or [1.0] * len(parts)
    if dtype == torch.float32:
        return weighted_sum([parts[0].clone(), *parts[1:]], by)
    total = torch.zeros_like(parts[0])
    for part, weight in zip(parts, by, strict=True):
        total.add_(part.to(dtype).mul_(torch.tensor(weight, dtype=dtype)).to(torch.float32))
    return total.to(dtype).to(torch.float32)


def elected(
    parts: Sequence[Tensor],
    weights: Sequence[float] | None,
    zeros: int,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """1.0 or -1.0 [n]: the sign of the votes, `zeros` where these sum to 0.

    >>> parts = [torch.tensor([1.0, -2.0, 1.0]), torch.tensor([3.0, 1.0, -1.0])]
    >>> elected(parts, None, zeros=-1)
    tensor([ 1., -1., -1.])
    """
    return votes(parts, weights, dtype).sign_().add_(0.5 * zeros).sign_()


def agreeing(
    parts: Sequence[Tensor], weights: Sequence[float], sign: Tensor
) -> tuple[Tensor, Tensor]:
    """Σ w_k |τ_k| and Σ w_k over the parts with τ_k · sign > 0: twice [n]. Overwrites the parts.

    >>> parts = [torch.tensor([1.0, -2.0]), torch.tensor([3.0, 1.0])]
    >>> agreeing(parts, [0.5, 0.5], torch.tensor([1.0, -1.0]))
    (tensor([2., 1.]), tensor([1.0000, 0.5000]))
    """
    total, mass = torch.zeros_like(sign), torch.zeros_like(sign)
    for part, weight in zip(parts, weights, strict=True):
        part.mul_(sign).relu_()
        total.add_(part, alpha=weight)
        mass.add_(part.sign_(), alpha=weight)
    return total, mass


def _from_mergekit(reader: ParameterReader) -> tuple[dict[str, Any], Options]:
    settings, of_parts = option_of_parts(reader, "density", 1.0, "density")
    method = consensus(reader, normalize=True) | with_keep(settings, of_parts)
    if reader.option("rescale", False):
        method["rescale"] = "l1"
    return method, part_weights(reader) | of_parts
