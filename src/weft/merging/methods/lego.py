"""LoRA-LEGO (arXiv 2409.16167): adapters taken apart into units of rank 1 and put together anew.

Unit i of a module is u_i = [a_i; s b_i], a row of A beside the column of B that it meets. The
units of all parts are clustered, and every cluster's centre becomes one unit of the merge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from weft.adapters.factors import Factors
from weft.merging.engine.matrices import gram_of_rows
from weft.merging.methods.adapters_only import AdapterMethod
from weft.merging.methods.base import MergeMethod, ModuleMerge
from weft.merging.methods.linear import Linear

if TYPE_CHECKING:
    from weft.merging.lora.lowrank import Truncated

STARTS = 8  # of k-means, of which the best counts


class Lego(AdapterMethod):
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

    @property
    def without_rank(self) -> MergeMethod:
        return Linear()

    def merge_deltas(self, modules: ModuleMerge) -> Mapping[str, Truncated]:
        return modules.by_factors(self.merge_module)

    def merge_module(
        self, parts: Sequence[Factors], weights: Sequence[float], rank: int | None
    ) -> Factors:
        """The units of one module clustered: `lego` with these settings."""
        return lego(
            parts,
            weights,
            self.rank or rank,
            rescale=self.output_scale,
            seed=self.seed,
            rounds=self.iterations,
        )


def lego(
    parts: Sequence[Factors],
    weights: Sequence[float],
    clusters: int | None = None,
    *,
    rescale: bool = True,
    seed: int = 0,
    rounds: int = 100,
) -> Factors:
    """k units, A [k, in] and B [out, k]; k is by default the parts' largest rank.

    A part's weight λ is the mass |λ| of its units, and its sign that of their half b: a cluster's
    centre is Σ |λ_i| u_i / Σ |λ_i|, scaled to the mean of its members' norms (with the same
    masses), so only ratios of weights count. With `rescale`, √(r/k) multiplies the result, r the
    largest rank. Equal weights are the paper's merge, K equal parts give that part, and parts of
    weight 0 count for nothing.
    """
    alive = [(part, weight) for part, weight in zip(parts, weights, strict=True) if weight]
    if not alive:
        return Factors(parts[0].a, torch.zeros_like(parts[0].b), 1.0)
    a = torch.cat([part.a.double() for part, _ in alive])
    signed = [
        (part.scaling if weight > 0 else -part.scaling) * part.b.double() for part, weight in alive
    ]
    b = torch.cat(signed, dim=1)
    mass = torch.cat(
        [torch.full((part.rank,), abs(weight), dtype=torch.float64) for part, weight in alive]
    )
    rank = max(part.rank for part, _ in alive)
    products = gram_of_rows(a) + gram_of_rows(b.T)
    groups = k_means(products, mass, clusters or rank, seed=seed, rounds=rounds)
    share = _membership(groups, mass)  # [k, n]
    size = (share @ products * share).sum(1).clamp(min=0).sqrt()
    mean = share @ products.diagonal().sqrt()
    scale = torch.where(size > 1e-7 * mean, mean / size, 0.0)  # a centre of 0 has no direction
    outer = (rank / len(share)) ** 0.5 if rescale else 1.0
    a, b = share @ a * scale[:, None], b @ share.T * scale
    return Factors(a.float(), b.float(), outer)


def k_means(
    products: Tensor, mass: Tensor, clusters: int, *, seed: int = 0, rounds: int = 100
) -> Tensor:
    """The cluster [n] of each of n points, known by their inner products [n, n] float64.

    k-means++ starts, Lloyd's rounds, the least sum of mass · squared distance of `STARTS` starts.
    There are fewer clusters than asked for where fewer points differ.
    """
    random = np.random.default_rng(seed)
    starts = [_start(products, mass, clusters, random) for _ in range(STARTS)]
    tries = [_lloyd(products, mass, start, rounds) for start in starts]
    return min(tries, key=lambda one: one.spread).groups


@dataclass(frozen=True, eq=False)
class _Clustering:
    groups: Tensor
    spread: float


def _start(products: Tensor, mass: Tensor, clusters: int, random: np.random.Generator) -> Tensor:
    """Points [k] that start the clusters: each drawn by mass · squared distance to those before."""
    norms = products.diagonal()
    noise = 1e-12 * float(norms.max())
    chosen: list[int] = []
    nearest = torch.full_like(norms, torch.inf)
    chance = mass
    while len(chosen) < clusters and bool((chance > 0).any()):
        sums = torch.cumsum(chance, 0)
        pick = int(torch.searchsorted(sums, random.random() * float(sums[-1]), right=True))
        pick = min(pick, int(chance.nonzero().max()))
        chosen.append(pick)
        away = norms + norms[pick] - 2 * products[pick]
        nearest = torch.minimum(nearest, torch.where(away > noise, away, 0.0))
        chance = mass * nearest
    return torch.tensor(chosen)


def _lloyd(products: Tensor, mass: Tensor, start: Tensor, rounds: int) -> _Clustering:
    count = len(start)
    norms = products.diagonal()
    groups = (norms[start] - 2 * products[:, start]).argmin(1)
    groups[start] = torch.arange(count)
    for _ in range(rounds):
        share = _membership(groups, mass)
        square = (share @ products * share).sum(1)
        away = norms[:, None] - 2 * products @ share.T + square
        nearest = away.argmin(1)
        _fill(nearest, away, count)
        if torch.equal(nearest, groups):
            break
        groups = nearest
    spread = float((mass * away.gather(1, groups[:, None])[:, 0]).sum())
    return _Clustering(groups, spread)


def _fill(groups: Tensor, away: Tensor, count: int) -> None:
    """Give each empty cluster the point farthest from its centre among clusters of several."""
    for empty in range(count):
        sizes = torch.bincount(groups, minlength=count)
        if sizes[empty]:
            continue
        far = away.gather(1, groups[:, None])[:, 0].clone()
        far[sizes[groups] < 2] = -torch.inf
        groups[int(far.argmax())] = empty


def _membership(groups: Tensor, mass: Tensor) -> Tensor:
    """[k, n] float64: each cluster's shares of mass; rows sum to 1."""
    share = torch.zeros(int(groups.max()) + 1, len(groups), dtype=torch.float64)
    share[groups, torch.arange(len(groups))] = mass
    return share / share.sum(1, keepdim=True)
