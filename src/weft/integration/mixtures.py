"""Mixtures of LoRA: one stream whose adapters are weighted for each token by a softmax gate.

X-LoRA (Buehler & Buehler, 2024): a first pass over the plain backbone; a linear head on its last
hidden state gives, for each token, weights of the adapters in every block of a second pass.

MeteoRA (Xu et al., 2024), as X-Cross's paper puts it: a gate for each block, on the plain
backbone's activations there.

One pass (ours): the lower blocks run plain, and X-LoRA's head reads their output; the adapters
above are weighted by it. It costs one pass where X-LoRA costs two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.adapters import Adapter
from weft.backbones.blocks import Blocks
from weft.errors import SettingError
from weft.integration.integrator import (
    Integrator,
    IntegratorSettings,
    require_two,
    top_blocks,
)
from weft.integration.stacking import mix_adapters


class XLoraSettings(IntegratorSettings):
    """`published`: two passes, all blocks; `one_pass`: plain below, weighted in the top `layers`."""

    kind: Literal["x_lora"] = "x_lora"
    form: Literal["published", "one_pass"] = "published"
    layers: int | None = Field(
        default=None, ge=1, description="of one_pass: blocks from the top; none: three quarters"
    )

    @property
    def label(self) -> str:
        return "x-lora" if self.form == "published" else "x-lora, one pass"

    @property
    def description(self) -> str:
        if self.form == "published":
            return "X-LoRA: one softmax head on the plain backbone's last layer, two passes"
        return "X-LoRA's head on the plain lower blocks' output, one pass"

    def build(self, blocks: Blocks, adapters: Sequence[Adapter], seed: int) -> XLoraIntegrator:
        return XLoraIntegrator(blocks, adapters, self, seed)

    def check_depth(self, blocks: int) -> None:
        top_blocks(self.layers, blocks, self.kind)
        self.first(blocks)

    def first(self, blocks: int) -> int:
        """The lowest block, from 0, in which adapters are on."""
        if self.form == "published":
            return 0
        first = blocks - top_blocks(self.layers, blocks, self.kind)
        if not first:
            raise SettingError("x_lora in one pass needs a block below those with adapters")
        return first


class MeteoraSettings(IntegratorSettings):
    """`top_k` adapters share each token; the others' weight is zero."""

    kind: Literal["meteora"] = "meteora"
    top_k: int = Field(default=2, ge=1)

    @property
    def label(self) -> str:
        return "meteora"

    @property
    def description(self) -> str:
        return "MeteoRA: a softmax gate for each block, on plain activations"

    def build(self, blocks: Blocks, adapters: Sequence[Adapter], seed: int) -> MeteoraIntegrator:
        return MeteoraIntegrator(blocks, adapters, self, seed)


class _Mixture(Integrator):
    """Adapters on `MixedLinear`s, all reading one holder of weights."""

    def __init__(self, blocks: Blocks, adapters: Sequence[Adapter], first: int) -> None:
        super().__init__(blocks, adapters)
        self.first = first
        self._scales = mix_adapters(blocks, adapters)

    @property
    def _mixed(self) -> range:
        """The blocks in which adapters are on."""
        return range(self.first, len(self._blocks))

    def _run(
        self,
        ids: Tensor,
        mask: Tensor,
        scales: dict[int, Tensor],
        start: tuple[int, Tensor] | None = None,
    ) -> Tensor:
        self._scales.of = scales
        try:
            return self._blocks.run(ids, mask, start=start)
        finally:
            self._scales.of = {}

    def _gate(self, outputs: int, generator: torch.Generator) -> nn.Linear:
        """A linear whose weights start small: first, all adapters count the same."""
        gate = nn.Linear(self.width, outputs)
        with torch.no_grad():
            gate.weight.copy_(torch.randn(gate.weight.shape, generator=generator) * 1e-3)
            gate.bias.zero_()
        return gate.to(next(self._blocks.model.parameters()).device)


class XLoraIntegrator(_Mixture):
    """One head for all blocks, on the plain backbone's last hidden state or, in one pass, on what
    enters the first block with adapters."""

    def __init__(
        self, blocks: Blocks, adapters: Sequence[Adapter], settings: XLoraSettings, seed: int
    ) -> None:
        require_two(adapters, settings.kind)
        self.one_pass = settings.form == "one_pass"
        super().__init__(blocks, adapters, settings.first(len(blocks)))
        self.settings = settings
        generator = torch.Generator().manual_seed(seed)
        self.head = self._gate(len(self._mixed) * self.sources, generator)

    @property
    def streams(self) -> int:
        return 1

    @property
    def frozen_by(self) -> list[object]:
        return ["plain", self.first if self.one_pass else "last"]

    def frozen(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The plain backbone's last hidden state, or what its lower blocks give."""
        if self.one_pass:
            return self._blocks.until(self.first - 1, ids, mask)
        with torch.no_grad(), self._blocks.all_tokens():
            return self._run(ids, mask, {})

    def rest(self, ids: Tensor, mask: Tensor, frozen: Tensor) -> Tensor:
        logits = self.head(frozen.float()).unflatten(-1, (len(self._mixed), self.sources))
        weights = torch.softmax(logits, dim=-1)
        scales = {block: weights[:, :, i] for i, block in enumerate(self._mixed)}
        start = (self.first, frozen) if self.one_pass else None
        return self._run(ids, mask, scales, start)


class MeteoraIntegrator(_Mixture):
    """A gate for each block, on what the plain backbone's block gets."""

    def __init__(
        self, blocks: Blocks, adapters: Sequence[Adapter], settings: MeteoraSettings, seed: int
    ) -> None:
        require_two(adapters, settings.kind)
        super().__init__(blocks, adapters, 0)
        self.settings = settings
        generator = torch.Generator().manual_seed(seed)
        self.gates = nn.ModuleList(self._gate(self.sources, generator) for _ in self._mixed)

    @property
    def streams(self) -> int:
        return len(self._blocks)

    @property
    def frozen_by(self) -> list[object]:
        return ["plain", "every"]

    def frozen(self, ids: Tensor, mask: Tensor) -> Tensor:
        """What each block of the plain backbone gets, one after the other."""
        inputs: list[Tensor] = []

        def store(block: int, hidden: Tensor) -> None:
            inputs.append(hidden)

        with torch.no_grad():
            self._blocks.until(len(self._blocks) - 1, ids, mask, before=store)
        return torch.cat(inputs)

    def rest(self, ids: Tensor, mask: Tensor, frozen: Tensor) -> Tensor:
        plain = frozen.view(len(self._blocks), -1, *frozen.shape[1:])
        gates = {block: gate(plain[block].float()) for block, gate in enumerate(self.gates)}
        return self._run(ids, mask, {b: self._weights(logits) for b, logits in gates.items()})

    def _weights(self, logits: Tensor) -> Tensor:
        """Softmax over the `top_k` largest logits of each token; zero elsewhere."""
        if self.settings.top_k < self.sources:
            largest = logits.topk(self.settings.top_k, dim=-1).indices
            off = torch.ones_like(logits, dtype=torch.bool).scatter(-1, largest, False)
            logits = logits.masked_fill(off, float("-inf"))
        return torch.softmax(logits, dim=-1)
