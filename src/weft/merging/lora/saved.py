"""Modules that adapters save whole: weights, not deltas, merged as full tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.adapters import TokenRows
from weft.errors import WeftError
from weft.merging.engine.method import Method
from weft.merging.engine.source import Memory, Source, Spec
from weft.merging.engine.stream import Merge, merge_in_memory
from weft.merging.lora.parts import FOLD_EACH, Parts
from weft.merging.lora.rows import TokenUnion
from weft.merging.quantised import check_numbers


def merge_saved(
    parts: Parts, method: Method, *, base: Source | None = None, threads: int | None = None
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
    parts: Parts, method: Method, *, base: Source | None = None, threads: int | None = None
) -> dict[str, TokenRows]:
    """Rows of embeddings that parts trained alone, over the union of their tokens.

    They are merged as tensors saved whole are; where that needs the backbone's rows, they are read
    from `base` or else from the backbone that the adapters name.
    """
    union = TokenUnion(parts.adapters, base)
    if not union.indices:
        return {}
    sources = union.parts()
    table = [effective(_inner(method), parts.weigh(name)) for name in parts.rows]
    plain = all(one is not None and abs(math.fsum(one) - 1) <= 1e-6 for one in table)
    under = None if plain and union.lacking is None else Memory("the backbone", union.under)
    return union.merged(_merge_whole(sources, parts, method, under, threads))


def _merge_whole(
    sources: Sequence[Source],
    parts: Parts,
    method: Method,
    base: Source | None,
    threads: int | None,
) -> dict[str, Tensor]:
    method = _inner(method)
    names = list(sources[0].specs)
    if effective(method, [1.0]) is None:
        if method.needs_base and base is None:
            raise WeftError(
                f"tensor '{names[0]}' is saved whole, and method '{method.name}' works on "
                "differences from a base: give the base (--base), or merge with 'linear'"
            )
        origin = base if method.needs_base else None
        merge = Merge(sources, method, parts.weigh, origin, parts.own)
        return merge_in_memory(merge, threads=threads)
    return _sums(sources, parts, method, base, threads)


def effective(method: Method, weights: Sequence[float]) -> list[float] | None:
    """The weights with which a method is a plain weighted sum of task vectors, if it is one."""
    from weft.merging.methods import Concat, Linear, TaskArithmetic

    if isinstance(method, Linear | TaskArithmetic) and method.normalize:
        total = math.fsum(weights)
        if not total:
            raise WeftError("weights that sum to 0 can't be normalised")
        weights = [weight / total for weight in weights]
    if isinstance(method, TaskArithmetic):
        return [method.scale * weight for weight in weights]
    return list(weights) if isinstance(method, Linear | Concat) else None


def _inner(method: Method) -> Method:
    """What the methods on ranks do with a tensor that has none."""
    from weft.merging.methods import Knots, Lego, Linear

    if isinstance(method, Knots):
        return method.then
    return Linear() if isinstance(method, Lego) else method


def _sums(
    sources: Sequence[Source],
    parts: Parts,
    method: Method,
    base: Source | None,
    threads: int | None,
) -> dict[str, Tensor]:
    from weft.merging.methods import Linear, TaskArithmetic

    table = {name: effective(method, parts.table[name]) or [] for name in sources[0].specs}
    if base is not None:
        merge = Merge(sources, TaskArithmetic(), lambda name: table[name], base)
        return merge_in_memory(merge, threads=threads)
    for name, weights in table.items():
        if abs(math.fsum(weights) - 1) > 1e-6:
            raise WeftError(
                f"tensor '{name}' is saved whole, and its weights {weights} do not sum to 1: "
                "give the base (--base)"
            )
    return merge_in_memory(Merge(sources, Linear(), lambda name: table[name]), threads=threads)


def check_saved(parts: Parts) -> None:
    """A `WeftError` for a tensor that only some parts save whole, which names both sides."""
    for name in parts.saved:
        for label, one in parts.adapters.items():
            if name not in one.saved:
                there = next(k for k, other in parts.adapters.items() if name in other.saved)
                raise WeftError(
                    f"tensor '{name}' is saved whole in {there} but not in {label}, "
                    f"so there is nothing to merge it with: {FOLD_EACH}"
                )


def _spec(base: Source, name: str) -> Spec:
    if name not in base.specs:
        raise WeftError(f"tensor '{name}' is saved whole, but {base.label} lacks it")
    check_numbers(base, name)
    return base.specs[name]


@dataclass(frozen=True)
class _Chosen:
    """Some tensors of a source."""

    source: Source
    specs: Mapping[str, Spec]

    @property
    def label(self) -> str:
        return self.source.label

    def read(self, name: str, start: int, count: int) -> torch.Tensor:
        return self.source.read(name, start, count)
