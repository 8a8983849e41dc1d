"""Arcee Fusion: take a part's weight where its change matters much more than most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from weft.errors import SettingError
from weft.merging.engine.masks import at_least
from weft.merging.engine.method import Block, Known, Pass
from weft.merging.engine.ranks import ranks
from weft.merging.mergekit.forms import MergekitForm, Options, check_one_other
from weft.merging.mergekit.parameters import ParameterReader
from weft.merging.methods.base import MergeMethod

_QUARTILES = "fusion.quartiles"
_EPSILON = 1e-8


class ArceeFusion(MergeMethod):
    """Swap in the weights whose change is an outlier of importance; keep the base's elsewhere.

    Importance I = |θ − θ_base| · KL(softmax(row of θ) ‖ softmax(row of θ_base)); swapped is where
    I ≥ median + 1.5 (Q3 − Q1) over the tensor, with quantiles at rank ⌊q (n − 1)⌋ (mergekit's
    arcee_fusion, which samples a million entries of a larger tensor; here they are exact). A vector
    is one row.
    """

    name: ClassVar[str] = "arcee_fusion"
    source: ClassVar[str] = "arcee.ai (Arcee Fusion in MergeKit v0.1)"
    needs_base: ClassVar[bool] = True
    rows: ClassVar[bool] = True
    takes: ClassVar[Literal["1"]] = "1"
    checkpoints_only: ClassVar[bool] = True

    precision: Literal["float64", "float32", "float16", "bfloat16"] = Field(
        default="float64",
        description="of the importance; mergekit has the dtype of the merge, in which the "
        "divergence of similar rows is mostly rounding",
    )

    @classmethod
    def mergekit_forms(cls) -> Mapping[str, MergekitForm]:
        return {"arcee_fusion": MergekitForm("origin", _from_mergekit, ranks=True)}

    def passes(self) -> Sequence[Pass]:
        def at(n: int, known: Known, k: int) -> list[int]:
            return [int(q * (n - 1)) for q in (0.25, 0.5, 0.75)]

        return ranks(
            _QUARTILES,
            lambda block, known: [self._importance(block)],
            at,
            signed=True,
            per_part=False,
        )

    def combine(self, block: Block, known: Known) -> Tensor:
        """The part's weight (0 or less takes no part, else it scales what is swapped in)."""
        kind = torch.float32 if self.precision == "float64" else self._dtype
        first, median, third = torch.tensor(known[_QUARTILES][0], dtype=torch.float64).to(kind)
        threshold = float(median + 1.5 * (third - first))
        mask = at_least(self._importance(block).numpy(), threshold)
        base = _base(block)
        return torch.add(base, (block.parts[0] - base).mul_(mask), alpha=block.weights[0])

    @property
    def _dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.precision)
        return dtype

    def _importance(self, block: Block) -> Tensor:
        """I [n] float32 of whole rows, every step in the precision."""
        part, base = (
            x.view(-1, block.columns).to(self._dtype) for x in (block.parts[0], _base(block))
        )
        p, q = (torch.softmax(x, dim=-1) + _EPSILON for x in (part, base))
        divergence = torch.sum(p * torch.log(p / q), dim=-1, keepdim=True)
        return ((part - base).abs() * divergence).to(torch.float32).reshape(-1)


def _base(block: Block) -> Tensor:
    if block.base is None:
        raise SettingError(
            "method 'arcee_fusion' compares rows of weights with the base's: it is for checkpoints"
        )
    return block.base


def _from_mergekit(reader: ParameterReader) -> tuple[dict[str, Any], Options]:
    """Stored dtypes are known only later: without a `dtype`, as if they were float32."""
    check_one_other(reader)
    return {"name": "arcee_fusion", "precision": reader.dtype or "float32"}, {}
