"""'Pooler + Scorer' (X-Cross, §4.1.3): one frozen adapter, and only its head is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from weft.adapters import Adapter
from weft.backbones.blocks import Blocks
from weft.errors import SettingError
from weft.integration.integrator import Integrator, IntegratorSettings, Source
from weft.integration.stacking import stack_adapters


class HeadSettings(IntegratorSettings):
    """Nothing to set: the recommender's head is all that is trained."""

    kind: Literal["head"] = "head"

    @property
    def label(self) -> str:
        return "pooler + scorer"

    @property
    def description(self) -> str:
        return "a new head on the best source, which stays frozen"

    def build(self, blocks: Blocks, adapters: Sequence[Adapter], seed: int) -> HeadIntegrator:
        return HeadIntegrator(blocks, adapters, self)

    def sources(self, best_first: Sequence[Source]) -> Sequence[Source]:
        """The best alone."""
        return best_first[:1]


class HeadIntegrator(Integrator):
    """One stream; the integrator has no parameters of its own."""

    def __init__(self, blocks: Blocks, adapters: Sequence[Adapter], settings: HeadSettings) -> None:
        if len(adapters) != 1:
            raise SettingError(f"head trains on one adapter, not {len(adapters)}")
        super().__init__(blocks, adapters)
        self.settings = settings
        stack_adapters(blocks, adapters)

    @property
    def streams(self) -> int:
        return 1

    @property
    def frozen_by(self) -> list[object]:
        return ["last"]

    def frozen(self, ids: Tensor, mask: Tensor) -> Tensor:
        with torch.no_grad():
            return self._blocks.run(ids, mask)

    def rest(self, ids: Tensor, mask: Tensor, frozen: Tensor) -> Tensor:
        return frozen
