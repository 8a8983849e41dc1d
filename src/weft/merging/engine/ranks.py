"""Exact order statistics of streamed values, in memory that does not grow with their number.

The bits of a float32, read as an integer, are in the order of its value (those of negative ones
turned round). A first pass counts leading bits; a second counts the trailing bits in the bucket
that holds the wanted rank. What comes out is the very element that a full sort would give.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weft.merging.engine.method import Block, Known, Pass, Scope, always

Values = Callable[[Block, Known], Sequence[Tensor]]
Positions = Callable[[int, Known, int], Sequence[int]]  # elements, what is known, row


class Tied(NamedTuple):
    """An element of sorted values, and how many have its value."""

    value: float
    place: int  # among those of that value, counted from 0 upwards
    equals: int  # how many have that value
    among: int  # elements in all


def ranks(
    key: str,
    values: Values,
    at: Positions,
    *,
    signed: bool = False,
    scope: Scope = "tensor",
    per_part: bool = True,
    needed: Callable[[Known], bool] = always,
    ties: bool = False,
) -> list[Pass]:
    """Two passes that find elements of sorted values.

    `values` gives R tensors [n] float32 of a block (K of them with `per_part`), finite; they are
    left as they are. `at` gives, for n elements in the scope and one of the R rows, Q positions in
    ascending order of value, counted from 0. `known[key]` is then a list of R tuples of Q floats,
    or with `ties` of Q `Tied`. Without `signed` it is the magnitudes |x| that are ranked.
    Memory: R · Q · 65,536 counts.
    """
    code = _SIGNED if signed else _MAGNITUDE
    leading = f"{key}.leading"

    def look_leading(block: Block, known: Known) -> Tensor:
        counts = [
            torch.bincount(code.leading(code.keys(row)), minlength=_BUCKETS)
            for row in values(block, known)
        ]
        return torch.stack(counts)

    def settle_leading(counts: Tensor, known: Known, n: int) -> list[list[tuple[int, int]]]:
        return [
            [find(row, position) for position in at(n, known, k)]
            for k, row in enumerate(counts.numpy())
        ]

    def look_trailing(block: Block, known: Known) -> Tensor:
        rows = zip(values(block, known), known[leading], strict=True)
        return torch.stack([_trailing(code, row, [b for b, _ in buckets]) for row, buckets in rows])

    def settle_trailing(counts: Tensor, known: Known, n: int) -> list[tuple[Any, ...]]:
        def one(inside: NDArray[np.int64], bucket: int, rest: int) -> Any:
            trailing, place = find(inside, rest)
            value = code.value(bucket, trailing)
            return Tied(value, place, int(inside[trailing]), n) if ties else value

        rows = zip(counts.numpy(), known[leading], strict=True)
        return [
            tuple(one(inside, *place) for inside, place in zip(row, buckets, strict=True))
            for row, buckets in rows
        ]

    return [
        Pass(leading, look_leading, settle_leading, scope, per_part, needed),
        Pass(key, look_trailing, settle_trailing, scope, per_part, needed),
    ]


_BUCKETS = 1 << 16
_UNSIGNED = 0x7FFFFFFF  # every bit but the sign's


@dataclass(frozen=True)
class _Code:
    """How a float becomes a bucket of its leading bits and a place among the trailing ones."""

    signed: bool
    shift: int  # number of trailing bits
    offset: int  # makes the leading bits a number that is not negative

    def keys(self, values: Tensor) -> Tensor:
        """int32 in the order of the values, or of their magnitudes."""
        bits = values.view(torch.int32)
        if not self.signed:
            return bits & _UNSIGNED
        return (bits >> 31).bitwise_and_(_UNSIGNED).bitwise_xor_(bits)

    def leading(self, keys: Tensor) -> Tensor:
        """Bucket numbers, in place of the keys."""
        keys = keys.bitwise_right_shift_(self.shift)
        return keys.add_(self.offset) if self.offset else keys

    def value(self, bucket: int, trailing: int) -> float:
        key = ((bucket - self.offset) << self.shift) | trailing
        bits = key ^ _UNSIGNED if key < 0 else key
        return float(np.array([bits], dtype=np.int32).view(np.float32)[0])


_SIGNED = _Code(True, 16, 1 << 15)
_MAGNITUDE = _Code(False, 15, 0)


def _trailing(code: _Code, values: Tensor, buckets: Sequence[int]) -> Tensor:
    """Counts [Q, 2^shift] of the trailing bits in each bucket."""
    keys = code.keys(values).numpy()
    leading = keys >> code.shift
    mask = (1 << code.shift) - 1
    return torch.stack(
        [
            torch.bincount(
                torch.from_numpy(keys[leading == bucket - code.offset] & mask), minlength=mask + 1
            )
            for bucket in buckets
        ]
    )


def find(counts: NDArray[np.int64], position: int) -> tuple[int, int]:
    """The bin that holds a position, and the position within that bin.

    >>> find(np.array([2, 0, 3]), 3)
    (2, 1)
    """
    ends = np.cumsum(counts)
    bin_of = int(np.searchsorted(ends, position, side="right"))
    return bin_of, position - int(ends[bin_of] - counts[bin_of])
