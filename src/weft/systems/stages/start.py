"""Training that goes on from an adapter: its factors and modules take the place of drawn ones."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from weft.adapters import Adapter, LoraLinear
from weft.errors import MismatchError


def continue_from(
    attached: Mapping[str, LoraLinear], whole: Mapping[str, nn.Module], adapter: Adapter
) -> None:
    """Copy an adapter into attached LoRA linears and the modules that it saves whole.

    ΔW = s B A stays what it was where the scaling s is another: B takes up the quotient. Modules or
    shapes that differ are a `MismatchError`.
    """
    tensors = {
        f"{name}.{key}": tensor
        for name, module in whole.items()
        for key, tensor in module.state_dict().items()
    }
    for name in sorted(attached.keys() ^ adapter.factors.keys()):
        where = "lacks" if name in attached else "has"
        raise MismatchError(f"start: the adapter to go on from {where} the module '{name}'")
    for name in sorted(tensors.keys() - adapter.saved.keys()):
        raise MismatchError(f"start: the adapter to go on from lacks '{name}'")
    with torch.no_grad():
        for name, linear in attached.items():
            factors = adapter.factors[name]
            if factors.a.shape != linear.a.shape or factors.b.shape != linear.b.shape:
                raise MismatchError(
                    f"start: '{name}' has rank {factors.a.shape[0]} in the adapter to go on from, "
                    f"and rank {linear.a.shape[0]} here"
                )
            linear.a.copy_(factors.a)
            scale = factors.scaling / linear.scaling
            linear.b.copy_(factors.b if scale == 1 else factors.b * scale)
        for name, tensor in tensors.items():
            tensor.copy_(adapter.saved[name])
