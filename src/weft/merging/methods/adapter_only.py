"""Methods that work on low-rank factors. Here are their settings; adapters' own merge computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from weft.errors import WeftError
from weft.merging.engine.method import Block, Known, Pass
from weft.merging.methods.settings import Inner, Settings
from weft.merging.methods.ties import Ties


class _AdapterMethod(Settings):
    adapters_only: ClassVar[bool] = True
    relative: ClassVar[bool] = True

    def passes(self) -> Sequence[Pass]:
        raise WeftError(f"method '{self.name}' merges adapters only")

    def combine(self, block: Block, known: Known) -> Tensor:
        raise WeftError(f"method '{self.name}' merges adapters only")


class Concat(_AdapterMethod):
    """Exact weighted sum of ΔW, kept as factors.

    A = [A_1; …; A_K], B = [w_1 s_1 B_1, …, w_K s_K B_K]: ΔW = Σ w_k s_k B_k A_k without rounding
    a product, at rank Σ r_k.
    """

    name: ClassVar[str] = "concat"
    source: ClassVar[str] = "as PEFT's 'cat'"

    def default_weights(self, parts: int) -> list[float]:
        return [1 / parts] * parts


class Lego(_AdapterMethod):
    """Cluster the rank-1 units of all adapters, and build one adapter of the centres.

    The units [a_i; b_i] of all parts are clustered by k-means into k; each centre is scaled to
    its members' mean norm; the output is scaled by √r/√k (Zhao et al. 2024, arXiv 2409.16167).
    """

    name: ClassVar[str] = "lego"
    source: ClassVar[str] = "Zhao et al. 2024, arXiv 2409.16167"

    rank: int | None = Field(
        default=None,
        ge=1,
        description="number of clusters, the rank of the result; none: the largest of a part",
    )
    seed: int = Field(default=0, ge=0, description="of the first centres of k-means")
    iterations: int = Field(default=100, ge=1, description="at most so many steps of k-means")
    output_scale: bool = Field(default=True, description="scale the result by √r/√k")


class Knots(_AdapterMethod):
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

    def check(self, parts: int) -> None:
        super().check(parts)
        self.then.check(parts)

    def default_weights(self, parts: int) -> list[float]:
        return self.then.default_weights(parts)
