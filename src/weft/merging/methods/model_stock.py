"""Model Stock: how far from the base the mean of fine-tuned models should lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from weft.merging.engine.method import Block, Known, Pass
from weft.merging.mergekit.forms import MergekitForm, Options
from weft.merging.mergekit.parameters import ParameterReader
from weft.merging.methods.base import MergeMethod
from weft.merging.methods.sums import gram_pass, inner_products, shares, weighted_sum


class ModelStock(MergeMethod):
    """Mean of the task vectors, shortened by the angle between them.

    θ = t θ_mean + (1-t) θ_base, t = K cos Ω / (1 + (K-1) cos Ω), Ω the angle between task vectors
    (Jang et al. 2024, arXiv 2403.19522), tensor by tensor. With more than two parts, cos Ω is the
    mean over all pairs; where it is not positive, t = 0: such parts share no direction.
    """

    name: ClassVar[str] = "model_stock"
    source: ClassVar[str] = "Jang et al. 2024, arXiv 2403.19522"
    needs_base: ClassVar[bool] = True
    relative: ClassVar[bool] = True
    rows: ClassVar[bool] = True
    takes: ClassVar[Literal["2+"]] = "2+"

    filter_wise: bool = Field(
        default=False, description="an angle for every row, not one for the tensor"
    )

    opposed: Literal["base", "formula"] = Field(
        default="base",
        description="where cos Ω is negative: stay at the base, or let the formula lead away from "
        "the mean (as in mergekit)",
    )

    @classmethod
    def mergekit_forms(cls) -> Mapping[str, MergekitForm]:
        return {"model_stock": MergekitForm("origin", _from_mergekit, ("filter_wise",))}

    def default_weights(self, parts: int) -> list[float]:
        return [1 / parts] * parts

    def passes(self) -> Sequence[Pass]:
        return [] if self.filter_wise else [gram_pass()]

    def combine(self, block: Block, known: Known) -> Tensor:
        share = shares(block)
        places = [
            k for k, weight in enumerate(share) if weight
        ]  # of weight 0, a part takes no part
        if not self.filter_wise:
            products = torch.from_numpy(known["gram"][np.ix_(places, places)])
            ratio = float(stock_ratio(products, self.opposed == "formula"))
            return weighted_sum(block.parts, [ratio * weight for weight in share])
        among = inner_products([block.parts[k] for k in places], block.columns)
        ratios = stock_ratio(among, self.opposed == "formula").to(torch.float32)
        mean = weighted_sum(block.parts, share)
        mean.view(-1, block.columns).mul_(ratios[:, None])
        return mean


def stock_ratio(products: Tensor, signed: bool = False) -> Tensor:
    """t [...] float64 from inner products [..., K, K] of the task vectors; 1 for a single one.

    A negative cos Ω counts as 0 unless `signed`; where the formula has no value, t = 0.
    """
    k = products.shape[-1]
    if k == 1:
        return torch.ones(products.shape[:-2], dtype=torch.float64)
    norms = products.diagonal(dim1=-2, dim2=-1).sqrt()
    lengths = norms[..., :, None] * norms[..., None, :]
    cosines = torch.where(lengths > 0, products / lengths, 0.0)
    among = cosines.sum((-2, -1)) - cosines.diagonal(dim1=-2, dim2=-1).sum(-1)
    cosine = (among / (k * (k - 1))).clamp(-1 if signed else 0, 1)
    below = 1 + (k - 1) * cosine
    return torch.where(below.abs() < 1e-6, 0.0, k * cosine / below)


def _from_mergekit(reader: ParameterReader) -> tuple[dict[str, Any], Options]:
    filter_wise = reader.option("filter_wise", False)
    return {"name": "model_stock", "filter_wise": filter_wise, "opposed": "formula"}, {}
