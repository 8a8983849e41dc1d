"""The two contracts of integration: the settings of a kind, and the integrator that they build."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import ConfigDict
from torch import Tensor, nn

from weft.adapters import Adapter
from weft.backbones.blocks import Blocks
from weft.errors import SettingError
from weft.settings import StrictModel

Source = TypeVar("Source")


class IntegratorSettings(StrictModel, ABC):
    """The settings of one kind of integrator. A kind is one file: settings with a `kind`, and the
    `Integrator` that they `build`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str

    @property
    @abstractmethod
    def label(self) -> str:
        """The name of its row in a table."""

    @property
    @abstractmethod
    def description(self) -> str:
        """What it does, in half a sentence for people."""

    @abstractmethod
    def build(self, blocks: Blocks, adapters: Sequence[Adapter], seed: int) -> Integrator:
        """Put the adapters on the model, in place, and an integrator over them; see
        `weft.integration.make_integrator`."""

    def check_depth(self, blocks: int) -> None:
        """Raises a `SettingError` if a backbone of so many blocks is not deep enough."""

    def sources(self, best_first: Sequence[Source]) -> Sequence[Source]:
        """Those of the chosen sources that this kind integrates; all of them by default."""
        return best_first


class Integrator(nn.Module, ABC):
    """Frozen adapters on a frozen backbone, combined by what is trained here.

    `frozen` computes activations that training never changes, so that they can be stored between
    epochs; `rest` goes on from them, and everything trained is in there. The module's parameters,
    in float32, are all that is trained beside the recommender's head.
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
        blocks: Any = self.__dict__["blocks"]
        return blocks  # type: ignore[no-any-return]

    @property
    def parameter_count(self) -> int:
        """How many trained numbers a score depends on."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    @abstractmethod
    def streams(self) -> int:
        """s in the shape of what `frozen` returns."""

    @property
    @abstractmethod
    def frozen_by(self) -> list[object]:
        """What `frozen` depends on, beside backbone and adapters; as JSON."""

    @abstractmethod
    def frozen(self, ids: Tensor, mask: Tensor) -> Tensor:
        """[s · n, tokens, d] of ids and mask [n, tokens]: constant while the integrator is trained."""

    @abstractmethod
    def rest(self, ids: Tensor, mask: Tensor, frozen: Tensor) -> Tensor:
        """The integrated last hidden state [n, tokens, d], or [n, 1, d] of the first token alone."""


def require_two(adapters: Sequence[Adapter], kind: str) -> None:
    """Raises a `SettingError` for fewer than two sources."""
    if len(adapters) < 2:
        raise SettingError(f"{kind} integrates two or more adapters, not {len(adapters)}")


def top_blocks(layers: int | None, blocks: int, kind: str) -> int:
    """How many blocks from the top are integrated: `layers`, or three quarters of all.

    Raises a `SettingError` if the backbone has fewer.

    >>> top_blocks(None, 12, "x_cross")
    9
    """
    if layers is None:
        return max(1, blocks * 3 // 4)
    if layers > blocks:
        raise SettingError(f"{kind}: layers is {layers}, and the backbone has {blocks} blocks")
    return layers
