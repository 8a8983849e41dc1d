"""Partial results of blocks and tensors, added up in an order that depends on names alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from weft.merging.engine.source import Spec, measured


class RunningSum:
    """Adds up what it is called with."""

    value: Tensor
    count = 0

    def __call__(self, one: Tensor) -> None:
        if self.count > 1:
            self.value.add_(one)
        else:  # the first one belongs to its caller
            self.value = self.value + one if self.count else one
        self.count += 1


class InOrder:
    """Adds up what belongs to names in the order of the names, whichever comes first."""

    def __init__(self, names: Sequence[str]) -> None:
        self.left = iter(names)
        self.next = next(self.left, None)
        self.early: dict[str, Tensor] = {}
        self.total = RunningSum()

    def put(self, name: str, one: Tensor) -> None:
        self.early[name] = one
        while self.next in self.early:
            self.total(self.early.pop(self.next))
            self.next = next(self.left, None)

    @property
    def sum(self) -> Tensor:
        return self.total.value


def inverse(order: Sequence[int]) -> list[int]:
    return [order.index(k) for k in range(len(order))]


def as_bytes(values: Tensor) -> Tensor:
    return values.contiguous().view(torch.uint8)


def tensor_places(specs: Mapping[str, Spec]) -> dict[str, int]:
    """Where each tensor begins among all elements, tensors in alphabetical order: the same
    whatever the layout of files."""
    starts: dict[str, int] = {}
    end = 0
    for name in sorted(specs):
        starts[name] = end
        end += specs[name].size if measured(specs[name]) else 0
    return starts
