"""Modules that adapters save whole: weights, not deltas, merged as full tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.adapters.header import TokenRows
from weft.errors import MismatchError, SettingError
from weft.merging.checkpoints.quantised import check_numbers
from weft.merging.engine.source import Memory, Spec, TensorSource
from weft.merging.engine.stream import Merge, merge_in_memory
from weft.merging.lora.parts import FOLD_EACH, AdapterParts
from weft.merging.lora.token_rows import TokenUnion
from weft.merging.methods.base import MergeMethod
from weft.merging.methods.linear import Linear, TaskArithmetic


def merge_saved(
    parts: AdapterParts,
    method: MergeMethod,
    *,
    base: TensorSource | None = None,
    threads: int | None = None,
) -> dict[str, Tensor]:
    """Full tensors by name, each in the first part's dtype.

    A weighted sum needs no base where the weights sum to 1; else it is
    θ_base + Σ λ_k (θ_k - θ_base), as for every other tensor of the model. Methods on task vectors
    need the base's tensors.
    """
    check_saved(parts)
    if not parts.saved:
        return {}
    sources = [
        Memory(label, {name: one.saved[name] for name in parts.saved})
        for label, one in parts.adapters.items()
    ]
    under = None
    if base is not None:
        under = _Chosen(base, {name: _spec(base, name) for name in parts.saved})
    return _merge_whole(sources, parts, method, under, threads)


def merge_rows(
    parts: AdapterParts,
    method: MergeMethod,
    *,
    base: TensorSource | None = None,
    threads: int | None = None,
) -> dict[str, TokenRows]:
    """Rows of embeddings that parts trained alone, over the union of their tokens.

    They are merged as tensors saved whole are; where that needs the backbone's rows, they are read
    from `base` or else from the backbone that the adapters name.
    """
    union = TokenUnion(parts.adapters, base)
    if not union.indices:
        return {}
    sources = union.parts()
    inner = method.without_rank
    plain = inner.is_sum and all(
        abs(math.fsum(inner.sum_weights(parts.weigh(name))) - 1) <= 1e-6 for name in parts.rows
    )
    under = None if plain and union.lacking is None else Memory("the backbone", union.under)
    return union.merged(_merge_whole(sources, parts, method, under, threads))


def _merge_whole(
    sources: Sequence[TensorSource],
    parts: AdapterParts,
    method: MergeMethod,
    base: TensorSource | None,
    threads: int | None,
) -> dict[str, Tensor]:
    inner = method.without_rank
    names = list(sources[0].specs)
    if inner.is_sum:
        return _sums(sources, parts, inner, base, threads)
    if inner.needs_base and base is None:
        raise SettingError(
            f"tensor '{names[0]}' is saved whole, and method '{inner.name}' works on "
            "differences from a base: give the base (--base), or merge with 'linear'"
        )
    origin = base if inner.needs_base else None
    merge = Merge(sources, inner, parts.weigh, origin, parts.options_of)
    return merge_in_memory(merge, threads=threads)


def _sums(
    sources: Sequence[TensorSource],
    parts: AdapterParts,
    method: MergeMethod,
    base: TensorSource | None,
    threads: int | None,
) -> dict[str, Tensor]:
    table = {name: method.sum_weights(parts.table[name]) for name in sources[0].specs}
    if base is not None:
        merge = Merge(sources, TaskArithmetic(), lambda name: table[name], base)
        return merge_in_memory(merge, threads=threads)
    for name, weights in table.items():
        if abs(math.fsum(weights) - 1) > 1e-6:
            raise SettingError(
                f"tensor '{name}' is saved whole, and its weights {weights} do not sum to 1: "
                "give the base (--base)"
            )
    return merge_in_memory(Merge(sources, Linear(), lambda name: table[name]), threads=threads)


def check_saved(parts: AdapterParts) -> None:
    """A `MismatchError` for a tensor that only some parts save whole, which names both sides."""
    for name in parts.saved:
        for label, one in parts.adapters.items():
            if name not in one.saved:
                there = next(k for k, other in parts.adapters.items() if name in other.saved)
                raise MismatchError(
                    f"tensor '{name}' is saved whole in {there} but not in {label}, "
                    f"so there is nothing to merge it with: {FOLD_EACH}"
                )


def _spec(base: TensorSource, name: str) -> Spec:
    if name not in base.specs:
        raise MismatchError(f"tensor '{name}' is saved whole, but {base.label} lacks it")
    check_numbers(base, name)
    return base.specs[name]


@dataclass(frozen=True)
class _Chosen:
    """Some tensors of a source."""

    source: TensorSource
    specs: Mapping[str, Spec]

    @property
    def label(self) -> str:
        return self.source.label

    def read(self, name: str, start: int, count: int) -> torch.Tensor:
        return self.source.read(name, start, count)
