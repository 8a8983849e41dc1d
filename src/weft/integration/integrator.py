"""What every integrator does: turn texts into hidden states of which some part never changes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from weft.adapters import Adapter
from weft.backbones.blocks import Blocks
from weft.errors import WeftError


class Integrator(nn.Module, ABC):
    """Frozen adapters on a frozen backbone, combined by what is trained here.

    `frozen` gives activations that training never changes, so that they can be kept from one epoch
    to the next; `rest` goes on from them, and everything trained is in there. The module's own
    parameters are all that is trained, float32, beside the recommender's head.
    """

    def __init__(self, blocks: Blocks, adapters: Sequence[Adapter]) -> None:
        super().__init__()
        # Not as a submodule: parameters of the backbone are not the integrator's.
        self.__dict__["blocks"] = blocks
        self.sources = len(adapters)
        self.width = int(blocks.model.config.hidden_size)
        blocks.model.requires_grad_(False)

    @property
    def _blocks(self) -> Blocks:
        found: Any = self.__dict__["blocks"]
        return found  # type: ignore[no-any-return]

    @property
    def numbers(self) -> int:
        """How many trained numbers a score depends on."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    @abstractmethod
    def streams(self) -> int:
        """s of what `frozen` gives."""

    @property
    @abstractmethod
    def frozen_by(self) -> list[object]:
        """What `frozen` depends on beside backbone and adapters, as JSON."""

    @abstractmethod
    def frozen(self, ids: Tensor, mask: Tensor) -> Tensor:
        """[s · n, tokens, d] of ids and mask [n, tokens]: constant while the integrator is trained."""

    @abstractmethod
    def rest(self, ids: Tensor, mask: Tensor, frozen: Tensor) -> Tensor:
        """The integrated last hidden state [n, tokens, d], or [n, 1, d] of the first token alone."""


def at_least_two(adapters: Sequence[Adapter], kind: str) -> None:
    """A `WeftError` for a single source."""
    if len(adapters) < 2:
        raise WeftError(f"{kind} integrates two or more adapters, not {len(adapters)}")


def top_blocks(asked: int | None, blocks: Blocks, kind: str) -> int:
    """How many blocks from the top are integrated: as asked, or three quarters of all (9 of 12)."""
    if asked is None:
        return max(1, len(blocks) * 3 // 4)
    if asked > len(blocks):
        raise WeftError(f"{kind}: layers is {asked}, and the backbone has {len(blocks)} blocks")
    return asked
