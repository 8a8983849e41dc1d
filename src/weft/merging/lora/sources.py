"""An adapter as a part of the engine's: its ΔW formed a few rows at a time, or its factors."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from weft.adapters.adapter import Adapter
from weft.adapters.factors import Factors
from weft.merging.engine.source import Spec

_HELD = 3  # modules whose factors are kept: reading goes block by block
_SIDES = (".lora_A", ".lora_B")


class _Recent:
    """The factors of the modules read last, so that a lazy adapter is not read once a block."""

    def __init__(self, factors: Mapping[str, Factors]) -> None:
        self._factors = factors
        self._held: dict[str, Factors] = {}
        self._lock = threading.Lock()

    def __getitem__(self, module: str) -> Factors:
        with self._lock:
            factors = self._held.pop(module, None)
        if factors is None:
            factors = self._factors[module]
        with self._lock:
            self._held[module] = factors
            while len(self._held) > _HELD:
                del self._held[next(iter(self._held))]
        return factors


@dataclass(frozen=True, eq=False)
class DeltaSource:
    """Module -> ΔW = s B A [out, in] float32, of which only the rows asked for are formed.

    `absent` names modules [out, in] that the adapter lacks: their ΔW is 0.
    """

    label: str
    adapter: Adapter
    absent: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @cached_property
    def specs(self) -> Mapping[str, Spec]:
        shapes = {name: shape.delta for name, shape in self.adapter.shapes.items()}
        return {n: Spec(shape, torch.float32) for n, shape in {**shapes, **self.absent}.items()}

    @cached_property
    def _recent(self) -> _Recent:
        return _Recent(self.adapter.factors)

    def read(self, name: str, start: int, count: int) -> Tensor:
        """Elements [start, start + count) of the flattened ΔW, [count] float32."""
        if name in self.absent or not count:
            return torch.zeros(count)
        factors = self._recent[name]
        columns = factors.a.shape[1]
        first, last = start // columns, -(-(start + count) // columns)
        rows = (factors.b[first:last] * factors.scaling) @ factors.a
        return rows.reshape(-1)[start - first * columns :][:count]


@dataclass(frozen=True, eq=False)
class FactorSource:
    """`<module>.lora_A` -> A [r, in] and `<module>.lora_B` -> B [out, r], float32."""

    label: str
    adapter: Adapter

    @cached_property
    def specs(self) -> Mapping[str, Spec]:
        return {
            name + side: Spec(shape, torch.float32)
            for name, of in self.adapter.shapes.items()
            for side, shape in zip(_SIDES, ((of.rank, of.inside), (of.out, of.rank)), strict=True)
        }

    @cached_property
    def _recent(self) -> _Recent:
        return _Recent(self.adapter.factors)

    def read(self, name: str, start: int, count: int) -> Tensor:
        """Elements [start, start + count) of a flattened factor, [count] float32."""
        module, side = module_and_side(name)
        factors = self._recent[module]
        whole = factors.a if side == _SIDES[0] else factors.b
        return whole.reshape(-1)[start : start + count]


def module_and_side(name: str) -> tuple[str, str]:
    """The module's name and `.lora_A` or `.lora_B`."""
    return name[: -len(_SIDES[0])], name[-len(_SIDES[0]) :]
