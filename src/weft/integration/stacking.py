"""Putting several adapters on one model.

DeBERTa projects its relative positions with the very linears that adapters change.

These positions belong to no text of the batch. Stacked streams project them once for each source,
so that every stream sees its own; a mixture, which weighs adapters by token, gives them equal
weights there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from weft.adapters import Adapter, Factors
from weft.backbones.blocks import Blocks
from weft.integration.linears import (
    Made,
    MixedLinear,
    Scales,
    StackedLinear,
    block_of,
    put_on,
)


def stack(blocks: Blocks, adapters: Sequence[Adapter]) -> None:
    """Let a model run n streams, one for each adapter, as one batch [n · batch, …], in place."""
    _put_on(blocks, adapters, lambda linear, factors, _: StackedLinear(linear, factors))


def mix(blocks: Blocks, adapters: Sequence[Adapter]) -> Scales:
    """Let a model run one stream with the adapters weighted by what is returned, in place."""
    scales = Scales()

    def make(linear: nn.Linear, factors: Sequence[Factors | None], name: str) -> nn.Module:
        return MixedLinear(linear, factors, block_of(name, blocks.name), scales)

    _put_on(blocks, adapters, make)
    return scales


def _put_on(blocks: Blocks, adapters: Sequence[Adapter], make: Made) -> None:
    made = put_on(blocks.model, adapters, make)
    for name, linear in made.items():
        if isinstance(linear, StackedLinear | MixedLinear):
            linear.name, linear.batch = name, blocks.batch
    _project_positions(blocks.model, made.values())


def _project_positions(model: nn.Module, made: Iterable[nn.Module]) -> None:
    """Let every module of the model that biases attention by relative position do as said above;
    a model without such modules stays as it is."""
    linears = [one for one in made if isinstance(one, StackedLinear | MixedLinear)]
    for module in model.modules():
        bias = getattr(module, "disentangled_attention_bias", None)
        if bias is not None:
            own = [one for one in module.children() if one in linears]
            module.disentangled_attention_bias = _by_stream(bias, own)  # type: ignore[assignment]


def _by_stream(bias: Callable[..., Tensor], linears: list[Any]) -> Callable[..., Tensor]:
    def biased(query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        streams = max((one.streams for one in linears), default=1)
        parts = []
        for stream, (q, k) in enumerate(zip(query.chunk(streams), key.chunk(streams), strict=True)):
            for one in linears:
                one.shared = stream
            try:
                parts.append(bias(q, k, *args, **kwargs))
            finally:
                for one in linears:
                    one.shared = None
        return torch.cat(parts)

    return biased
