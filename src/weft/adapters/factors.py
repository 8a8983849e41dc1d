"""LoRA factors, in memory or still in their file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Half = Literal["a", "b"]


@dataclass(frozen=True, eq=False)
class Factors:
    """One module's delta: ΔW = scaling · B A, with A [r, in] and B [out, r] float32."""

    a: Tensor
    b: Tensor
    scaling: float

    @property
    def rank(self) -> int:
        """r, the rows of A."""
        return self.a.shape[0]

    @property
    def shape(self) -> FactorShape:
        """Sizes and scaling."""
        return FactorShape(self.b.shape[0], self.a.shape[1], self.rank, self.scaling)

    def delta(self) -> Tensor:
        """ΔW [out, in] float32."""
        return self.scaling * (self.b @ self.a)


@dataclass(frozen=True)
class FactorShape:
    """What is known of factors that are not read yet."""

    out: int
    inside: int
    rank: int
    scaling: float

    @property
    def delta(self) -> tuple[int, int]:
        """The shape of ΔW: [out, in]."""
        return self.out, self.inside


@dataclass(frozen=True, eq=False)
class LazyFactors(Mapping[str, Factors]):
    """Module -> factors, read from the file on each access, never held in memory."""

    shapes: Mapping[str, FactorShape]
    read: Callable[[str, Half], Tensor]  # module, half -> float32

    def __getitem__(self, module: str) -> Factors:
        scaling = self.shapes[module].scaling
        return Factors(self.read(module, "a"), self.read(module, "b"), scaling)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


@dataclass(frozen=True, eq=False)
class LazyTensors(Mapping[str, Tensor]):
    """Name -> tensor, read from the file on each access, never held in memory."""

    names: tuple[str, ...]
    read: Callable[[str], Tensor]

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.names:
            raise KeyError(name)
        return self.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)
