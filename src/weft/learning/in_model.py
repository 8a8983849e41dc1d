"""A model that is changed for a while, and afterwards is as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

SetWeights = Callable[[Tensor], None]
"""Puts θ(w) of coefficients w [K, G] into a model."""


@contextmanager
def frozen_model(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in evaluation mode and no parameter of it gets a gradient; afterwards
    it is as it was."""
    trained = {name: p.requires_grad for name, p in model.named_parameters()}
    training = model.training
    model.requires_grad_(False)
    model.eval()
    try:
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trained[name])
        model.train(training)


@contextmanager
def replaced_modules(model: nn.Module, modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """Inside, modules of the model are others, by name; afterwards it is as it was."""
    originals = {name: model.get_submodule(name) for name in modules}
    try:
        for name, module in modules.items():
            _put(model, name, module)
        yield
    finally:
        for name, module in originals.items():
            _put(model, name, module)


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
