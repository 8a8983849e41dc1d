"""KnOTS (arXiv 2410.19735): adapters turned into one common basis before they are merged.

[ΔW_1 … ΔW_K] = U S [V_1ᵀ … V_Kᵀ], a singular value decomposition along the inputs. The aligned
parts S V_kᵀ [q, in] are merged by any method, and U times that is the merged ΔW. With
ΔW_k = s_k B_k A_k, no ΔW is formed: the aligned parts are (s_k Uᵀ B_k) A_k, of low rank themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from weft.merging.engine.matrices import gram_of_rows, square_root
from weft.merging.methods.adapters_only import AdapterMethod
from weft.merging.methods.base import Inner, MergeMethod, ModuleMerge
from weft.merging.methods.ties import Ties

if TYPE_CHECKING:
    from weft.adapters.factors import Factors
    from weft.merging.lora.lowrank import Truncated

# Directions below this share of the largest singular value are rounding: squares of float64.
_NOISE = 1e-7


class Knots(AdapterMethod):
    """Merge in a space that all adapters share, found by one singular value decomposition.

    [ΔW_1, …, ΔW_K] = U Σ [V_1, …, V_K]ᵀ; another method merges the V_k, and
    ΔW = U Σ V_mergedᵀ (Stoica et al. 2024, arXiv 2410.19735).
    """

    name: ClassVar[str] = "knots"
    source: ClassVar[str] = "Stoica et al. 2024, arXiv 2410.19735"

    then: Inner = Field(default=Ties(), description="the method that merges the V_k")
    scale_by: Literal["none", "sigma"] = Field(
        default="sigma", description="merge the V_k as they are, or times the singular values"
    )

    @property
    def by_part(self) -> Sequence[str]:
        return self.then.by_part

    @property
    def without_rank(self) -> MergeMethod:
        return self.then

    def check(self, parts: int) -> None:
        super().check(parts)
        self.then.check(parts)

    def default_weights(self, parts: int) -> list[float]:
        return self.then.default_weights(parts)

    def merge_deltas(self, modules: ModuleMerge) -> Mapping[str, Truncated]:
        return modules.in_bases(
            lambda parts: basis(parts, scaled=self.scale_by == "sigma"), self.then
        )


@dataclass(frozen=True, eq=False)
class Basis:
    """The common basis of one module: U [out, q] float64 and every part's turned B [q, r_k]."""

    left: Tensor
    sizes: Tensor  # [q] float64: what multiplies the rows of the merged parts
    turned: Mapping[str, Tensor]  # label -> s_k Uᵀ B_k, or S⁻¹ times that; float32


def basis(parts: Mapping[str, Factors], *, scaled: bool = True) -> Basis:
    """U of the parts of one module, q ≤ min(Σ r_k, out), without their weights.

    With [ΔW_1 … ΔW_K] = B D, D block diagonal of the A_k, and L Lᵀ = D Dᵀ, U are the left singular
    vectors of B L. `scaled`: the parts are S V_kᵀ and `sizes` 1; else the parts are V_kᵀ and
    `sizes` is S.
    """
    wide = torch.cat([_rooted(factors) for factors in parts.values()], dim=1)  # B L [out, n]
    left, sizes = _left(wide)
    sizes = torch.ones_like(sizes) if scaled else torch.where(sizes > 0, sizes, 1.0)
    turned = {
        label: ((left.T @ factors.b.double() * factors.scaling) / sizes[:, None]).float()
        for label, factors in parts.items()
    }
    return Basis(left, sizes, turned)


def _rooted(factors: Factors) -> Tensor:
    """s B L [out, r] float64, where L Lᵀ = A Aᵀ."""
    return factors.scaling * factors.b.double() @ square_root(gram_of_rows(factors.a.double()))


def _left(wide: Tensor) -> tuple[Tensor, Tensor]:
    """Left singular vectors [out, q] and singular values [q], largest first; q ≥ 1."""
    out, ranks = wide.shape
    values, vectors = torch.linalg.eigh(gram_of_rows(wide if out <= ranks else wide.T))
    sizes = values.clamp(min=0).sqrt().flip(0)
    count = max(1, int((sizes > _NOISE * sizes[0]).sum()))
    chosen = vectors.flip(1)[:, :count]
    if out > ranks:
        chosen = torch.linalg.qr(wide @ chosen)[0]
    return chosen, (chosen.T @ wide).norm(dim=1)
