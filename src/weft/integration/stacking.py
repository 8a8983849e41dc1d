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
    MixedLinear,
    Replace,
    Scales,
    StackedLinear,
    block_of,
    put_on,
)


def stack_adapters(blocks: Blocks, adapters: Sequence[Adapter]) -> None:
    """Have a model run n streams, one for each adapter, as one batch [n · batch, …]; in place."""
    _put_on(blocks, adapters, lambda linear, factors, _: StackedLinear(linear, factors))


def mix_adapters(blocks: Blocks, adapters: Sequence[Adapter]) -> Scales:
    """Have a model run one stream whose adapters are weighted by the returned `Scales`; in place."""
    scales = Scales()

    def replace(linear: nn.Linear, factors: Sequence[Factors | None], name: str) -> nn.Module:
        return MixedLinear(linear, factors, block_of(name, blocks.name), scales)

    _put_on(blocks, adapters, replace)
    return scales


def _put_on(blocks: Blocks, adapters: Sequence[Adapter], replace: Replace) -> None:
    replacements = put_on(blocks.model, adapters, replace)
    for name, linear in replacements.items():
        if isinstance(linear, StackedLinear | MixedLinear):
            linear.name, linear.batch = name, blocks.batch
    _project_positions(blocks.model, replacements.values())


def _project_positions(model: nn.Module, replacements: Iterable[nn.Module]) -> None:
    """Have every module that biases attention by relative position project the positions once for
    each stream (see above); a model without such modules stays as it is."""
    linears = [one for one in replacements if isinstance(one, StackedLinear | MixedLinear)]
    for module in model.modules():
        bias = getattr(module, "disentangled_attention_bias", None)
        if bias is not None:
            projections = [one for one in module.children() if one in linears]
            module.disentangled_attention_bias = _by_stream(bias, projections)  # type: ignore[assignment]


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
