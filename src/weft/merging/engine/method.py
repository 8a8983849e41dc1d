"""What a merging method is to the engine that streams tensors through it.

A method never sees a whole model. It sees blocks: the same run of elements of one tensor in every
part. What it must know beyond a block (a threshold, an inner product) it measures beforehand, in
passes over the blocks of a tensor or of all tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor

Known = Mapping[str, Any]
Scope = Literal["tensor", "global"]
OPTIONS = "options"  # in Known: option of single parts -> a value for each row of a measurement


def always(known: Known) -> bool:
    return True


@dataclass(frozen=True)
class Block:
    """The same elements of one tensor in K parts.

    Parts come in the engine's canonical order (by their bytes), so that a sum over them has the
    same bits whatever order the caller named them in; `labels` and `weights` follow that order.
    """

    name: str
    start: int  # of the flattened tensor
    columns: int  # row length of the tensor; only a method with `rows` is sure to get whole rows
    parts: tuple[Tensor, ...]  # K times [n] float32: task vectors, or weights (Method.relative)
    weights: tuple[float, ...]  # K
    labels: tuple[str, ...]  # K
    base: Tensor | None = None  # [n] float32; None where the base is zero, as for adapters
    place: int = 0  # of the first element among all merged ones, tensors in alphabetical order

    @property
    def size(self) -> int:
        return self.parts[0].numel()


@dataclass(frozen=True)
class Pass:
    """One streaming measurement: partial results of blocks, summed, then settled.

    `look` returns a tensor (integers or float64), the same shape for every block; the engine adds
    these up in the order of the blocks. `settle` makes of the sum (and of the number of elements
    looked at) what later passes and `combine` find under `key`.
    With `per_part`, the first axis of the sum has one row a part and `settle` returns a list of K;
    the engine keeps their order right where a scope covers several tensors. A pass that is not
    `needed`, by what earlier ones found, is left out, and its key is then not known.
    """

    key: str
    look: Callable[[Block, Known], Tensor]
    settle: Callable[[Tensor, Known, int], Any]
    scope: Scope = "tensor"
    per_part: bool = True
    needed: Callable[[Known], bool] = always


class Method(Protocol):
    """A merging method with its options, as the engine sees it.

    `weft.merging.methods.base.MergeMethod` is this with defaults, and the base of weft's own.
    """

    name: ClassVar[str]
    needs_base: ClassVar[bool]  # means nothing for checkpoints without a base
    relative: ClassVar[bool]  # blocks hold task vectors θ_k - θ_base, else weights θ_k
    rows: ClassVar[bool]  # needs whole rows in a block
    symmetric: ClassVar[bool]  # the order in which parts are named has no meaning

    @property
    def by_part(self) -> Sequence[str]:
        """Options that a part may have a value of its own for, tensor by tensor: `part_option`."""
        ...

    @property
    def skips_zero(self) -> bool:
        """Whether a part of weight 0 changes nothing: then it isn't read."""
        ...

    def check(self, parts: int) -> None:
        """A `SettingError` when this many parts can't be merged."""
        ...

    def default_weights(self, parts: int) -> list[float]:
        """What each part gets when the caller names no weights."""
        ...

    def passes(self) -> Sequence[Pass]:
        """What must be measured, in order; a pass may use what earlier ones measured."""
        ...

    def combine(self, block: Block, known: Known) -> Tensor:
        """The merged elements [n] float32: a task vector if `relative`, else weights."""
        ...


def part_option(known: Known, name: str, k: int, default: float) -> float:
    """Part k's own value of an option, where the merge has one; else the method's."""
    values = known.get(OPTIONS, {}).get(name)
    return default if values is None else float(values[k])
