"""Which entry stands at a place when equal magnitudes are put in order too.

`weft.merging.engine.ranks` finds the magnitude at a place in sorted order. Where several entries have it,
a cut of exactly k entries must take some of them and leave others: those of equal magnitude stand
in the order of their positions, as a stable sort puts them. Two more counts over the data find the
position of the last one taken; they are left out where there is nothing to break.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weft.merging.engine.method import Block, Known, Pass, Scope, always
from weft.merging.engine.ranks import Positions, Tied, Values, find, ranks

_SHIFT = 16
_SIZE = 1 << _SHIFT

Take = Literal["first", "first_up_to", "last"]


class Bound(NamedTuple):
    """A cut by magnitude, and by position among the entries of that magnitude."""

    value: float
    position: int | None = None  # None: all of that magnitude are in
    last: bool = False  # those from the position on are in, not those up to it


def bounds(
    key: str,
    values: Values,
    at: Positions,
    takes: Sequence[Take],
    *,
    scope: Scope = "tensor",
    per_part: bool = True,
    needed: Callable[[Known], bool] = always,
) -> list[Pass]:
    """Passes after which `known[key]` holds R tuples of Q `Bound`s, for magnitudes.

    `at` is that of `ranks`: places in ascending order. `takes` says which entries of the bound's
    own magnitude are in. "first": everything from the place upwards is wanted, and of equal
    magnitudes the first by position (a descending stable sort, cut); "last": the same, but the
    last by position (an ascending stable sort); "first_up_to": everything up to the place, and the
    first by position.
    """
    tied = f"{key}.tied"
    breaker = _TieBreaker(key, values, tuple(takes), scope)
    return [
        *ranks(tied, values, at, scope=scope, per_part=per_part, needed=needed, ties=True),
        Pass(
            breaker.leading, breaker.look_leading, breaker.settle_leading, scope, per_part,
            breaker.needed,
        ),
        Pass(key, breaker.look_trailing, breaker.settle_trailing, scope, per_part, breaker.needed),
    ]  # fmt: skip


@dataclass(frozen=True)
class _TieBreaker:
    """Finds the position at which each cut falls among entries of one magnitude: a count of the
    leading bits of their positions, then of the trailing bits in the bucket of the wanted one."""

    key: str
    values: Values
    takes: tuple[Take, ...]
    scope: Scope

    @property
    def leading(self) -> str:
        return f"{self.key}.leading"

    def needed(self, known: Known) -> bool:
        cuts = self.cuts(known) if f"{self.key}.tied" in known else []
        return any(cut.index is not None for row in cuts for cut in row)

    def cuts(self, known: Known) -> list[list[_Cut]]:
        rows = known[f"{self.key}.tied"]
        return [[_Cut.of(*one) for one in zip(row, self.takes, strict=True)] for row in rows]

    def equals(self, block: Block, known: Known) -> list[list[NDArray[np.int64]]]:
        """Positions of the entries of each cut's magnitude in a block, R × Q arrays."""
        first = block.place if self.scope == "global" else block.start
        positions = []
        for row, cuts in zip(self.values(block, known), self.cuts(known), strict=True):
            sizes = row.abs().numpy()
            positions.append(
                [np.flatnonzero(sizes == np.float32(cut.value)) + first for cut in cuts]
            )
        return positions

    def look_leading(self, block: Block, known: Known) -> Tensor:
        buckets = (known[f"{self.key}.tied"][0][0].among >> _SHIFT) + 1
        return torch.stack(
            [_counts([p >> _SHIFT for p in row], buckets) for row in self.equals(block, known)]
        )

    def settle_leading(self, total: Tensor, known: Known, n: int) -> list[list[tuple[int, int]]]:
        return [
            [find(one, cut.index or 0) for one, cut in zip(row, cuts, strict=True)]
            for row, cuts in zip(total.numpy(), self.cuts(known), strict=True)
        ]

    def look_trailing(self, block: Block, known: Known) -> Tensor:
        counts = []
        for row, buckets in zip(self.equals(block, known), known[self.leading], strict=True):
            pairs = zip(row, buckets, strict=True)
            inside = [p[p >> _SHIFT == bucket] & (_SIZE - 1) for p, (bucket, _) in pairs]
            counts.append(_counts(inside, _SIZE))
        return torch.stack(counts)

    def settle_trailing(self, total: Tensor, known: Known, n: int) -> list[tuple[int, ...]]:
        rows = zip(total.numpy(), known[self.leading], strict=True)
        return [
            tuple(
                (bucket << _SHIFT) + find(one, rest)[0]
                for one, (bucket, rest) in zip(row, buckets, strict=True)
            )
            for row, buckets in rows
        ]


def bound_of(known: Known, key: str, k: int, takes: Sequence[Take]) -> tuple[Bound, ...] | None:
    """Row k of what `bounds` found; None where it was not needed."""
    if f"{key}.tied" not in known:
        return None
    limits = []
    for q, take in enumerate(takes):
        cut = _Cut.of(known[f"{key}.tied"][k][q], take)
        position = known[key][k][q] if cut.index is not None and key in known else None
        limits.append(Bound(cut.value, position, take == "last"))
    return tuple(limits)


@dataclass(frozen=True)
class _Cut:
    value: float
    index: int | None  # of the entry at the edge, among those of that magnitude; None: all are in

    @classmethod
    def of(cls, tied: Tied, take: Take) -> _Cut:
        """The wanted edge of a group of equals: `tied.place` counts from the smallest."""
        if take == "first":
            index, every = tied.equals - 1 - tied.place, tied.place == 0
        else:
            index, every = tied.place, tied.place == (0 if take == "last" else tied.equals - 1)
        return cls(tied.value, None if every else index)


def _counts(places: Sequence[NDArray[np.int64]], size: int) -> Tensor:
    return torch.stack([torch.bincount(torch.from_numpy(one), minlength=size) for one in places])


def drop_equals(part: Tensor, bound: Bound, first: int) -> Tensor:
    """Zero in place the entries of the bound's own magnitude that are not in; `part` [n] starts
    at position `first`."""
    out = equals_out(part, bound, first)
    if out is not None:
        part[out] = 0
    return part


def equals_out(part: Tensor, bound: Bound, first: int) -> Tensor | None:
    """Where in `part` the entries of the bound's own magnitude are that are not in."""
    if bound.position is None:
        return None
    equal = np.flatnonzero(part.abs().numpy() == np.float32(bound.value))
    places = equal + first
    out = places < bound.position if bound.last else places > bound.position
    return torch.from_numpy(equal[out])
