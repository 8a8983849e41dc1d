"""Adding an adapter to the weights of a model in memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from weft.adapters.adapter import Adapter
from weft.adapters.header import TokenRows
from weft.adapters.lora import LoraLinear
from weft.errors import MismatchError


def fold_into(model: nn.Module, adapter: Adapter) -> None:
    """Add every ΔW to the model's weights, in float32, stored in the weight's own dtype.

    Tensors saved whole, and rows of single tokens, replace the model's. A module or tensor that
    does not fit is a `MismatchError`, and the model is then as it was.

    >>> from weft.adapters import Factors
    >>> model = nn.ModuleDict({"query": nn.Linear(3, 2, bias=False)})
    >>> _ = nn.init.ones_(model["query"].weight)
    >>> factors = Factors(a=torch.ones(1, 3), b=torch.tensor([[1.0], [2.0]]), scaling=0.5)
    >>> fold_into(model, Adapter({"query": factors}, {}))
    >>> model["query"].weight.data
    tensor([[1.5000, 1.5000, 1.5000],
            [2.0000, 2.0000, 2.0000]])
    """
    sums: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        for name, factors in adapter.factors.items():
            weight, turned = _weight_of(model, name, (factors.b.shape[0], factors.a.shape[1]))
            start = adapter.saved.get(f"{name}.weight", weight).to(weight.device)
            delta = factors.delta().to(weight.device)
            sums.append((weight, start.float() + (delta.T if turned else delta)))
        for name in adapter.saved.keys() - set(adapter.carried):
            module, _, _ = name.rpartition(".")
            tensor = adapter.saved[name]
            sums.append((_tensor_of(model, module, name, tuple(tensor.shape)), tensor))
        for name, tokens in adapter.tokens.items():
            weight = _parameter_of(model, name, f"{name}.weight")
            _check_rows(name, tokens, tuple(weight.shape))
            indices = torch.tensor(tokens.indices, device=weight.device)
            rows = tokens.rows.to(weight.device, weight.dtype)
            sums.append((weight, weight.index_copy(0, indices, rows)))
        for target, value in sums:
            target.copy_(value)


def _check_rows(name: str, tokens: TokenRows, shape: tuple[int, ...]) -> None:
    if len(shape) != 2 or tokens.rows.shape[1] != shape[1] or max(tokens.indices) >= shape[0]:
        raise MismatchError(
            f"the adapter's rows of '{name}', {list(tokens.rows.shape)} up to token "
            f"{max(tokens.indices)}, don't fit the backbone's {list(shape)}"
        )


def _weight_of(model: nn.Module, module: str, shape: tuple[int, int]) -> tuple[Tensor, bool]:
    """A linear's weight [out, in]; or, true, [in, out] of GPT-2's `Conv1D`."""
    submodule = model.get_submodule(module) if _has_module(model, module) else None
    linear = isinstance(submodule, nn.Linear | LoraLinear)
    turned = submodule is not None and not linear and _is_conv1d(submodule)
    weight = _tensor_of(model, module, f"{module}.weight", shape[::-1] if turned else shape)
    if not turned and not linear:
        raise MismatchError(f"the adapter's module '{module}' is not a linear one in the backbone")
    return weight, turned


def _is_conv1d(module: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D  # takes a second, so only where it is in doubt

    return isinstance(module, Conv1D)


def _has_module(model: nn.Module, name: str) -> bool:
    try:
        model.get_submodule(name)
    except AttributeError:
        return False
    return True


def _parameter_of(model: nn.Module, module: str, name: str) -> Tensor:
    try:
        return model.get_parameter(name)
    except AttributeError:
        raise MismatchError(
            f"the adapter has a module '{module}' that the backbone lacks"
        ) from None


def _tensor_of(model: nn.Module, module: str, name: str, shape: tuple[int, ...]) -> Tensor:
    tensor = _parameter_of(model, module, name)
    if tuple(tensor.shape) != shape:
        raise MismatchError(
            f"the adapter's module '{module}' has the shape {list(shape)}, "
            f"the backbone's {list(tensor.shape)}"
        )
    return tensor
