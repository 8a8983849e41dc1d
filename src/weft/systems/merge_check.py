"""Merging small random parts as a study will merge its trained ones, before anything is trained.

What the merge refuses (a space, a rank, weights that sum to 0, a method without its base) it then
refuses when the recipe is read, in its own words.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from weft.adapters import Adapter, Factors
from weft.errors import SettingError, WeftError
from weft.merging import merge_adapters
from weft.merging.lora.parts import Space
from weft.merging.merge import merge
from weft.merging.methods import make_method, method_options

PartKind = Literal["adapters", "adapters with a head", "checkpoints"]
WIDTH, RANK = 6, 2


def check_merge(
    method: str | Mapping[str, Any],
    count: int,
    weights: Sequence[float] | None,
    kind: PartKind,
    *,
    refusal: str,
    space: Space = "delta",
    rank: int | None = None,
) -> None:
    """A `SettingError` where `count` parts of a kind can't be merged so: `refusal`, and why. Nothing
    else comes out."""
    options = json.dumps(method_options(make_method(method)), sort_keys=True)
    numbers = None if weights is None else tuple(weights)
    reason = _reason(options, count, numbers, kind, space, rank)
    if reason is not None:
        raise SettingError(f"{refusal}: {reason}")


@lru_cache(maxsize=1024)
def _reason(
    options: str,
    count: int,
    weights: tuple[float, ...] | None,
    kind: PartKind,
    space: Space,
    rank: int | None,
) -> str | None:
    """Why such a merge is refused, if it is."""
    method = json.loads(options)
    try:
        if kind == "checkpoints":
            merge(
                [_checkpoint(seed) for seed in range(count)], method, weights,
                base=_checkpoint(count) if make_method(method).needs_base else None,
                space=space, rank=rank, threads=1,
            )  # fmt: skip
        else:
            head = kind == "adapters with a head"
            merge_adapters(
                [_adapter(seed, head) for seed in range(count)], method, weights,
                space=space, rank=rank, threads=1,
            )  # fmt: skip
    except WeftError as error:
        return str(error)
    return None


def _numbers(seed: int) -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator)


def _checkpoint(seed: int) -> dict[str, Tensor]:
    return {"layer.weight": _numbers(seed)(WIDTH, WIDTH)}


def _adapter(seed: int, head: bool) -> Adapter:
    """Factors of one module; with a `head` the modules that a cross-encoder saves whole."""
    random = _numbers(seed)
    factors = {"layer": Factors(random(RANK, WIDTH), random(WIDTH, RANK), 2.0)}
    whole = {"pooler.dense.weight": (WIDTH, WIDTH), "scorer.weight": (1, WIDTH)} if head else {}
    manifest = {"backbone": {"name": "random", "fingerprint": "random"}}
    return Adapter(factors, manifest, {name: random(*shape) for name, shape in whole.items()})
