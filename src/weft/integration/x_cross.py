"""X-Cross (Hadad et al., SIGIR 2025): frozen adapters' activations refined block by block.

For n sources, at each integrated block, for every token (equations 4 to 6):

    z   = W_cat [h_1; …; h_n],     W_cat [2n(n−1), n·d], no bias, no softmax
    h̃_m = h_m + Σ_{m'≠m} ( β s_{m,m'} h_{m'} + γ t_{m,m'} (h_m − h_{m'}) )
    h   = Σ_m w_m h̃_m              after the last block

s and t are z read as [n owners, 2 kinds, n−1 others in ascending order], and h̃_m is what block l+1
of source m gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.adapters import Adapter
from weft.backbones.blocks import Blocks
from weft.integration.integrator import (
    Integrator,
    IntegratorSettings,
    require_two,
    top_blocks,
)
from weft.integration.stacking import stack_adapters

START = 1e-3  # standard deviation of W_cat's first values


class XCrossSettings(IntegratorSettings):
    """β, γ and how many blocks from the top are integrated."""

    kind: Literal["x_cross"] = "x_cross"
    layers: int | None = Field(default=None, ge=1, description="blocks; none: three quarters")
    beta: float = 0.5
    gamma: float = 0.4

    @property
    def label(self) -> str:
        return "x-cross"

    @property
    def description(self) -> str:
        return "X-Cross"

    def build(self, blocks: Blocks, adapters: Sequence[Adapter], seed: int) -> XCrossIntegrator:
        return XCrossIntegrator(blocks, adapters, self, seed)

    def check_depth(self, blocks: int) -> None:
        top_blocks(self.layers, blocks, self.kind)


def refine(h: Tensor, w_cat: Tensor, beta: float, gamma: float) -> Tensor:
    """h̃ [n, tokens, d] of h [n, tokens, d] and W_cat [2n(n−1), n·d]; equations 4 and 5.

    Where two sources are identical, γ's term is exactly zero, not merely small.

    >>> h = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])  # two sources, one token, d = 2
    >>> w_cat = torch.ones(4, 4)  # so that every s and t is 2
    >>> refine(h, w_cat, beta=0.5, gamma=0.0).tolist()
    [[[1.0, 1.0]], [[1.0, 1.0]]]
    >>> refine(h, w_cat, beta=0.0, gamma=0.5).tolist()
    [[[2.0, -1.0]], [[-1.0, 2.0]]]
    """
    n, _, d = h.shape
    split = w_cat.to(h.dtype).view(-1, n, d).permute(1, 2, 0)  # [n, d, 2n(n-1)]
    z = torch.bmm(h, split).sum(0).view(-1, n, 2, n - 1)
    out = []
    for m in range(n):
        refined = h[m]
        for place, other in enumerate(o for o in range(n) if o != m):
            s, t = z[:, m, 0, place, None], z[:, m, 1, place, None]
            if beta:
                refined = torch.addcmul(refined, s, h[other], value=beta)
            if gamma:
                refined = torch.addcmul(refined, t, h[m] - h[other], value=gamma)
        out.append(refined)
    return torch.stack(out)


class XCrossIntegrator(Integrator):
    """The integrator: `w_cat`, one matrix for each integrated block, and `w` [n]."""

    def __init__(
        self, blocks: Blocks, adapters: Sequence[Adapter], settings: XCrossSettings, seed: int
    ) -> None:
        require_two(adapters, settings.kind)
        layers = top_blocks(settings.layers, len(blocks), settings.kind)
        super().__init__(blocks, adapters)
        n, device = self.sources, next(blocks.model.parameters()).device
        self.settings, self.first = settings, len(blocks) - layers
        generator = torch.Generator().manual_seed(seed)
        shape = (2 * n * (n - 1), n * self.width)
        self.w_cat = nn.ParameterList(
            (torch.randn(shape, generator=generator) * START).to(device) for _ in range(layers)
        )
        self.w = nn.Parameter(torch.full((n,), 1 / n, device=device))
        stack_adapters(blocks, adapters)

    @property
    def parameter_count(self) -> int:
        """W_cat's rows of terms whose β or γ is 0 don't count."""
        terms = int(self.settings.beta != 0) + int(self.settings.gamma != 0)
        return self.w.numel() + sum(int(w.numel()) * terms // 2 for w in self.w_cat)

    @property
    def streams(self) -> int:
        return self.sources

    @property
    def frozen_by(self) -> list[object]:
        return ["stacked", self.first]

    def frozen(self, ids: Tensor, mask: Tensor) -> Tensor:
        """What the first integrated block gives, before it is refined: everything up to there is
        frozen."""
        n = self.sources
        return self._blocks.until(self.first, ids.repeat(n, 1), mask.repeat(n, 1))

    def rest(self, ids: Tensor, mask: Tensor, frozen: Tensor) -> Tensor:
        n = self.sources
        start = (self.first + 1, self._refined(self.first, frozen))
        hidden = self._blocks.run(ids.repeat(n, 1), mask.repeat(n, 1), self._refined, start)
        states = hidden.view(n, -1, *hidden.shape[1:])
        return torch.einsum("m,m...->...", self.w, states.float())

    def _refined(self, block: int, hidden: Tensor) -> Tensor:
        h = hidden.view(self.sources, -1, hidden.shape[-1])
        w_cat = self.w_cat[block - self.first]
        return refine(h, w_cat, self.settings.beta, self.settings.gamma).view_as(hidden)
