"""Where tensors come from: anything with names, shapes and a way to read a run of elements."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from weft.errors import DataError


@dataclass(frozen=True)
class Spec:
    """Shape and dtype of a tensor that is not read yet."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def columns(self) -> int:
        """Length of a row: the last axis; the whole of a vector."""
        return self.shape[-1] if self.shape else 1

    @property
    def bytes(self) -> int:
        return self.size * self.dtype.itemsize


def measured(spec: Spec) -> bool:
    """Whether a tensor is merged; one of integers is copied, an empty one needs nothing."""
    return spec.dtype.is_floating_point and spec.size > 0


class TensorSource(Protocol):
    """One part of a merge. Reading is safe from several threads at once."""

    @property
    def label(self) -> str:
        """A short name, unique among the parts; it keys random masks and names errors."""
        ...

    @property
    def specs(self) -> Mapping[str, Spec]:
        """What there is, by tensor name."""
        ...

    def read(self, name: str, start: int, count: int) -> Tensor:
        """Elements [start, start + count) of the flattened tensor, [count], in its own dtype."""
        ...


@dataclass(frozen=True)
class Memory:
    """Tensors that are already in memory."""

    label: str
    tensors: Mapping[str, Tensor]

    @property
    def specs(self) -> dict[str, Spec]:
        return {name: Spec(tuple(t.shape), t.dtype) for name, t in self.tensors.items()}

    def read(self, name: str, start: int, count: int) -> Tensor:
        return self.tensors[name].detach().reshape(-1)[start : start + count]


def cast(name: str, values: Tensor, dtype: torch.dtype) -> Tensor:
    """Merged float32 values in the dtype that is stored; what does not fit in is an error.

    Rounding is to nearest, ties to even; a copied tensor passes as it is.
    """
    if not dtype.is_floating_point or not values.numel():
        return values
    low, high = (float(one) for one in torch.aminmax(values))
    most = torch.finfo(dtype).max
    stored = values.to(dtype)
    if -most <= low and high <= most:  # false for NaN as well
        return stored
    if dtype.itemsize == 1:  # torch gives the largest number instead
        bad = ~(values.abs() <= most)
    else:
        bad = ~torch.isfinite(stored.to(torch.float32))
    if bad.any():
        value = float(values[bad][0])
        kind = str(dtype).removeprefix("torch.")
        raise DataError(f"tensor '{name}' merges to {value:g}, which {kind} can't hold")
    return stored
