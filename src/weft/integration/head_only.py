"""'Pooler + Scorer' (X-Cross, §4.1.3): one frozen adapter, and only its head is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import ConfigDict
from torch import Tensor

from weft.adapters import Adapter
from weft.backbones.blocks import Blocks
from weft.errors import WeftError
from weft.integration.integrator import Integrator
from weft.integration.stacking import stack
from weft.settings import StrictModel


class HeadSettings(StrictModel):
    """Nothing to set: the recommender's head is all that is trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["head"] = "head"


class HeadOnly(Integrator):
    """One stream; the integrator has no parameters of its own."""

    def __init__(
        self, blocks: Blocks, adapters: Sequence[Adapter], settings: HeadSettings, seed: int
    ) -> None:
        if len(adapters) != 1:
            raise WeftError(f"head trains on one adapter, not {len(adapters)}")
        super().__init__(blocks, adapters)
        self.settings = settings
        stack(blocks, adapters)

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
