"""Adapters inside a model, each in every module by a coefficient that gradients flow to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from weft.adapters import Adapter
from weft.errors import WeftError
from weft.learning.groups import Groups
from weft.learning.vectors import Place


class _Weighted(nn.Module):
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
        self.placed: list[
            Tensor
        ] = []  # the last w [K, G]; in a list, so that it stays no parameter

    def forward(self, x: Tensor) -> Tensor:
        weights = self.placed[0][:, self.group].repeat_interleave(self.ranks).to(x.dtype)
        delta = ((x @ self.a.T) * weights) @ self.b.T
        return cast(Tensor, self.linear(x)) + delta


def check_adapters(model: nn.Module, adapters: Sequence[Adapter]) -> None:
    """A `WeftError` for adapters whose merging weights can't be learned on this model."""
    if len(adapters) < 2:
        raise WeftError("learning merging weights needs at least two adapters")
    names = set(adapters[0].factors)
    for number, one in enumerate(adapters, start=1):
        if one.saved or one.tokens:
            raise WeftError(
                f"adapter {number} saves modules whole or trains rows alone; weights are learned "
                "for LoRA only"
            )
        if other := names ^ set(one.factors):
            raise WeftError(f"adapters 1 and {number} differ in the module '{min(other)}'")
    for name in names:
        try:
            module: nn.Module | None = model.get_submodule(name)
        except AttributeError:
            module = None
        if not isinstance(module, nn.Linear):
            raise WeftError(f"the adapters' module '{name}' is no linear one of the model")


@contextmanager
def weighted_adapters(
    model: nn.Module, adapters: Sequence[Adapter], groups: Groups
) -> Iterator[Place]:
    """Inside, the model has the adapters by the coefficients that were last placed; afterwards it
    is as it was. `groups` are of the adapters' modules."""
    check_adapters(model, adapters)
    wanted = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    training = model.training
    model.requires_grad_(False)
    model.eval()
    placed: dict[str, _Weighted] = {}
    try:
        for name in adapters[0].factors:
            linear = cast(nn.Linear, model.get_submodule(name))
            placed[name] = _Weighted(linear, name, adapters, groups.of[name])
            _put(model, name, placed[name])

        def place(w: Tensor) -> None:
            for module in placed.values():
                module.placed[:] = [w]

        yield place
    finally:
        for name, module in placed.items():
            _put(model, name, module.linear)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(wanted[name])
        model.train(training)


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
