"""Adapters inside a model, each in every module by a coefficient that gradients flow to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from weft.adapters import Adapter
from weft.errors import MismatchError
from weft.learning.groups import Groups
from weft.learning.in_model import SetWeights, frozen_model, replaced_modules


class _WeightedLinear(nn.Module):
    """W x + Σ_k w_k s_k B_k A_k x; the w_k of the module's group are what learns."""

    def __init__(self, linear: nn.Linear, name: str, parts: Sequence[Adapter], group: int) -> None:
        super().__init__()
        self.linear = linear
        factors = [part.factors[name] for part in parts]
        weight = linear.weight
        self.a = torch.cat([one.a for one in factors]).to(weight)  # [Σ r, in]
        self.b = torch.cat([one.b * one.scaling for one in factors], dim=1).to(weight)
        self.ranks = torch.tensor([one.rank for one in factors], device=weight.device)
        self.group = group
        self.last_w: list[Tensor] = []  # one, [K, G]; in a list, so that it stays no parameter

    def forward(self, x: Tensor) -> Tensor:
        weights = self.last_w[0][:, self.group].repeat_interleave(self.ranks).to(x.dtype)
        delta = ((x @ self.a.T) * weights) @ self.b.T
        return cast(Tensor, self.linear(x)) + delta


def check_learnable(model: nn.Module, adapters: Sequence[Adapter]) -> None:
    """Raise `MismatchError` for adapters whose merging weights can't be learned on this model."""
    if len(adapters) < 2:
        raise MismatchError("learning merging weights needs at least two adapters")
    names = set(adapters[0].factors)
    for number, one in enumerate(adapters, start=1):
        if one.saved or one.tokens:
            raise MismatchError(
                f"adapter {number} saves modules whole or trains rows alone; weights are learned "
                "for LoRA only"
            )
        if other := names ^ set(one.factors):
            raise MismatchError(f"adapters 1 and {number} differ in the module '{min(other)}'")
    for name in names:
        try:
            module: nn.Module | None = model.get_submodule(name)
        except AttributeError:
            module = None
        if not isinstance(module, nn.Linear):
            raise MismatchError(f"the adapters' module '{name}' is no linear one of the model")


@contextmanager
def weighted_adapters(
    model: nn.Module, adapters: Sequence[Adapter], groups: Groups
) -> Iterator[SetWeights]:
    """Inside, the model has the adapters by the coefficients that were last set; afterwards it is
    as it was. `groups` are of the adapters' modules."""
    check_learnable(model, adapters)
    modules: dict[str, _WeightedLinear] = {}
    for name in adapters[0].factors:
        linear = cast(nn.Linear, model.get_submodule(name))
        modules[name] = _WeightedLinear(linear, name, adapters, groups.of[name])

    def set_weights(w: Tensor) -> None:
        for module in modules.values():
            module.last_w[:] = [w]

    with frozen_model(model), replaced_modules(model, modules):
        yield set_weights
