"""Concatenation: the exact weighted sum of adapters, kept as factors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from weft.merging.methods.adapters_only import AdapterMethod
from weft.merging.methods.base import ModuleMerge

if TYPE_CHECKING:
    from weft.merging.lora.lowrank import Truncated


class Concat(AdapterMethod):
    """Exact weighted sum of ΔW, kept as factors.

    A = [A_1; …; A_K], B = [w_1 s_1 B_1, …, w_K s_K B_K]: ΔW = Σ w_k s_k B_k A_k without rounding
    a product, at rank Σ r_k.
    """

    name: ClassVar[str] = "concat"
    source: ClassVar[str] = "as PEFT's 'cat'"
    is_sum: ClassVar[bool] = True

    def default_weights(self, parts: int) -> list[float]:
        return [1 / parts] * parts

    def merge_deltas(self, modules: ModuleMerge) -> Mapping[str, Truncated]:
        return modules.summed()
