"""The largest entries of each part's task vector: what several methods keep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from weft.merging.engine.method import OPTIONS, Block, Known, Pass, Scope, part_option
from weft.merging.engine.order import Take, bound_of, bounds, drop_equals
from weft.merging.engine.ranks import Values, ranks
from weft.merging.methods.sums import shrink

Trim = Literal["global", "tensor"]
Keep = Literal["ties", "exact"]
Rescale = Literal["none", "l1"]

_TAKES: tuple[Take, ...] = ("first",)
_NOTHING = 1e-7


def density_field(default: float) -> float:
    text = "fraction of each part's entries to keep, those of largest magnitude"
    field: float = Field(default=default, gt=0, le=1, description=text)
    return field


def keep_field(ties: str = "all that tie with the smallest kept entry stay") -> Keep:
    text = (
        f"ties: {ties}; exact: int(density · n) entries stay, of equal ones the first by position"
    )
    field: Keep = Field(default="ties", description=text)
    return field


def trim_field(default: Trim) -> Trim:
    text = "rank an entry among all entries of its part, or among those of its tensor"
    field: Trim = Field(default=default, description=text)
    return field


def parts_of(block: Block, known: Known) -> Sequence[Tensor]:
    return block.parts


def cuts(
    key: str,
    density: float,
    scope: Scope,
    keep: Keep = "ties",
    *,
    values: Values = parts_of,
    more: int = 0,
) -> list[Pass]:
    """Passes that find the least magnitude to keep, so that int(density · n) + more of n stay.

    At least one stays. A part may have its own density. With `keep: exact` also where to cut among
    entries of that magnitude (and `more` has no meaning). Where all is kept, nothing is measured.
    """
    extra = 0 if keep == "exact" else more

    def at(n: int, known: Known, k: int) -> list[int]:
        share = part_option(known, "density", k, density)
        return [min(max(0, n - int(share * n) - extra), n - 1)]

    def needed(known: Known) -> bool:
        shares = known.get(OPTIONS, {}).get("density", [density])
        return any(one < 1 for one in shares)

    if keep == "exact":
        return bounds(key, values, at, _TAKES, scope=scope, needed=needed)
    return ranks(key, values, at, scope=scope, needed=needed)


def trimmed(
    parts: Sequence[Tensor],
    block: Block,
    known: Known,
    key: str,
    places: Sequence[int],
    scope: Scope,
    density: float,
) -> Sequence[Tensor]:
    """Parts with their small entries zeroed in place, as `cuts` found; `places` in the block."""
    first = block.place if scope == "global" else block.start
    parts_cut = []
    for part, k in zip(parts, places, strict=True):
        share = part_option(known, "density", k, density)
        bound = bound_of(known, key, k, _TAKES)
        if share <= 0:
            part = torch.zeros_like(part)
        elif share < 1 and bound is not None:
            part = drop_equals(shrink(part, bound[0].value), bound[0], first)
        elif share < 1 and key in known:
            part = shrink(part, known[key][k][0])
        parts_cut.append(part)
    return parts_cut


def rescale_field() -> Rescale:
    text = (
        "l1: what is left of a part in a tensor is scaled to the L1 norm that it had before; none"
    )
    field: Rescale = Field(default="none", description=text)
    return field


def norms(key: str, cut: Callable[[Block, Known], Sequence[Tensor]]) -> Pass:
    """A pass after which `known[key]` has what each part is scaled by for `rescale: l1`, in a
    tensor; `cut` gives the K trimmed parts, and may overwrite those of the block."""

    def look(block: Block, known: Known) -> Tensor:
        before = [part.abs().sum() for part in block.parts]
        after = [part.abs().sum() for part in cut(block, known)]
        return torch.stack([torch.stack(before), torch.stack(after)], dim=1).to(torch.float64)

    def settle(total: Tensor, known: Known, n: int) -> list[float]:
        # Where nothing is left, nothing is scaled (mergekit: below 1e-7).
        return [b / a if min(b, a) >= _NOTHING else 1.0 for b, a in total.tolist()]

    return Pass(key, look, settle)


def rescaled(
    parts: Sequence[Tensor], known: Known, key: str, places: Sequence[int]
) -> list[Tensor]:
    """Parts scaled in place by what `norms` found; as they are without it."""
    if key not in known:
        return list(parts)
    return [part.mul_(known[key][k]) for part, k in zip(parts, places, strict=True)]
