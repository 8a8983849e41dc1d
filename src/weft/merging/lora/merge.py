"""Merging adapters without a backbone in memory, module by module."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from weft import __version__
from weft.adapters import Adapter, Factors, FactorShape
from weft.adapters.factors import Half, LazyFactors
from weft.errors import WeftError
from weft.merging.engine.method import Method
from weft.merging.engine.schedule import Step, Work, run_all, threads_alone
from weft.merging.engine.source import Source
from weft.merging.engine.stream import Merge
from weft.merging.lora.dense import merge_each
from weft.merging.lora.kept import kept_shares, written
from weft.merging.lora.knots import Basis, basis
from weft.merging.lora.lego import lego
from weft.merging.lora.lowrank import (
    Stack,
    Truncated,
    average_factors,
    concatenate,
    truncate,
    truncate_delta,
    whole,
)
from weft.merging.lora.parts import Parts, Space, Weigh, gather
from weft.merging.lora.saved import check_saved, effective, merge_rows, merge_saved
from weft.merging.lora.sources import DeltaSource

if TYPE_CHECKING:
    from weft.merging.methods import Knots

X = TypeVar("X")


def merge_adapters(
    parts: Sequence[Adapter],
    method: str | Mapping[str, Any] | Method = "linear",
    weights: Sequence[float] | Weigh | None = None,
    *,
    space: Space = "delta",
    rank: int | None = None,
    labels: Sequence[str] | None = None,
    threads: int | None = None,
    base: Source | None = None,
    union: bool = False,
    options: Callable[[str], Mapping[str, Sequence[float]]] | None = None,
) -> Adapter:
    """One adapter out of several of one backbone, by any method; float32 factors.

    `weights`: one a part, or a function of a module's name (and of a saved tensor's) that gives
    them; the method's own default unless given. They are taken as they are.

    `space: delta` merges ΔW = s B A. Weighted sums (`linear`, `task_arithmetic`, `concat`) are
    exact at rank Σ r_k; `lego` and `knots` work on the factors; every other method's ΔW is formed
    a few rows at a time and kept as it is (rank min(out, in)). With `rank`, the result is the best
    approximation of at most that rank, and the manifest says what was lost
    (`merge.truncation`: ‖lost‖ / ‖ΔW‖ in Frobenius norm). For `lego`, `rank` is the number of
    clusters. `space: factors` merges A and B each by itself; parts need one rank and scaling.

    Modules are matched to the names of the first part, across known wrappers
    (`weft.merging.lora.names`). A module that a part lacks has ΔW = 0 there, and the manifest names
    it (`merge.missing`); a part with fewer than half of its modules in common with the others is
    refused unless `union` allows it. `options` gives, by a module's or saved tensor's name, what
    single parts have for the method's options.
    Tensors saved whole are merged as weights (`weft.merging.lora.saved`), with those of `base`
    where it is given. Adapters of different backbones or recommenders are refused. The result has
    the same bits whatever the number of threads, and in whatever order the parts are named, unless
    the order means something to the method.
    """
    from weft.merging.methods import make_method

    if space not in ("delta", "factors"):
        raise WeftError(f"space is {space!r}, neither delta nor factors")
    if rank is not None and rank < 1:
        raise WeftError(f"a merge needs a rank of at least 1, not {rank}")
    how = make_method(method)
    given = replace(gather(parts, labels, how, weights, space, union=union), options=options)
    one = _Merge(given, how, rank, threads)
    header = given.header  # disagreements are said before any work
    saved = {**given.carried, **merge_saved(given, how, base=base, threads=threads)}
    tokens = merge_rows(given, how, base=base, threads=threads)
    merged = one.in_factors() if space == "factors" else one.in_deltas()
    factors = {module: merged[module].factors for module in given.modules}
    _check_finite(factors)
    manifest = _manifest(given, _recipe(one, space, merged))
    return Adapter(factors, manifest, saved, tokens, header)


def check_adapters(
    parts: Sequence[Adapter],
    method: Method,
    weights: Weigh,
    space: Space,
    labels: Sequence[str],
    *,
    union: bool,
) -> None:
    """A `WeftError` for what `merge_adapters` would refuse of the parts, before any work."""
    gathered = gather(parts, labels, method, weights, space, union=union)
    _ = gathered.header  # disagreements are an error
    check_saved(gathered)


@dataclass(frozen=True, eq=False)
class _Merge:
    parts: Parts
    method: Method
    rank: int | None
    threads: int | None

    def in_deltas(self) -> dict[str, Truncated]:
        from weft.merging.methods import Knots, Lego

        if effective(self.method, [1.0]) is not None:
            return self.each(self.sum)
        if isinstance(self.method, Lego):
            return self.each(self.pieced)
        if isinstance(self.method, Knots):
            return self.knotted(self.method)
        merge = Merge(self.parts.deltas(), self.method, self.parts.weigh, None, self.parts.own)
        return merge_each(merge, self.fitted, threads=self.threads)

    def in_factors(self) -> dict[str, Truncated]:
        from weft.merging.methods import Concat, Knots, Lego

        if isinstance(self.method, Concat | Lego | Knots):
            raise WeftError(f"method '{self.method.name}' merges ΔW: it needs space: delta")
        if effective(self.method, [1.0]) is not None:
            return self.each(self.averaged)
        merge = Merge(self.parts.halves(), self.method, self.parts.weigh, None, self.parts.own)
        halves = merge_each(merge, lambda _, half: half, threads=self.threads)
        shapes = next(iter(self.parts.adapters.values())).shapes
        return self.each(
            lambda module: self.cut(
                Factors(
                    halves[f"{module}.lora_A"], halves[f"{module}.lora_B"], shapes[module].scaling
                )
            )
        )

    def each(self, job: Callable[[str], Truncated]) -> dict[str, Truncated]:
        modules = list(self.parts.modules)
        return dict(zip(modules, side_by_side(job, modules, self.threads), strict=True))

    def sum(self, module: str) -> Truncated:
        factors, weights = self.weighted(module)
        if self.rank is None or sum(one.rank for one in factors) <= self.rank:
            return Truncated(concatenate(factors, weights), 0.0)
        return truncate(Stack.of(factors, weights), self.rank)

    def averaged(self, module: str) -> Truncated:
        return self.cut(average_factors(*self.weighted(module)))

    def weighted(self, module: str) -> tuple[list[Factors], list[float]]:
        """Factors of parts that count, and what multiplies them in a weighted sum."""
        group = self.parts.of(module, alive=True)
        table = effective(self.method, self.parts.table[module]) or []
        weights = dict(zip(self.parts.adapters, table, strict=True))
        if not all(math.isfinite(weights[k] * one.scaling) for k, one in group.factors.items()):
            raise WeftError(f"module '{module}': the weights {table} are too large")
        return list(group.factors.values()), [weights[label] for label in group.factors]

    def pieced(self, module: str) -> Truncated:
        from weft.merging.methods import Lego

        assert isinstance(self.method, Lego)
        factors, weights = self.parts.of(module, alive=True).lists
        return self.cut(
            lego(
                factors,
                weights,
                self.method.rank or self.rank,
                rescale=self.method.output_scale,
                seed=self.method.seed,
                rounds=self.method.iterations,
            )
        )

    def knotted(self, method: Knots) -> dict[str, Truncated]:
        """Every part turned into the common bases, merged there, and turned back."""
        modules = list(self.parts.modules)
        scaled = method.scale_by == "sigma"
        found = side_by_side(
            lambda name: basis(self.parts.of(name).factors, scaled=scaled), modules, self.threads
        )
        bases = dict(zip(modules, found, strict=True))
        sources = [_turned(source, bases) for source in self.parts.deltas()]

        def back(module: str, merged: Tensor) -> Truncated:
            own = bases[module]
            merged = merged * own.sizes[:, None].float()
            if self.rank is None or len(merged) <= self.rank:
                return Truncated(Factors(merged, own.left.float(), 1.0), 0.0)
            made = self.fitted(module, merged)
            return replace(made, factors=replace(made.factors, b=own.left.float() @ made.factors.b))

        merge = Merge(sources, method.then, self.parts.weigh, None, self.parts.own)
        return merge_each(merge, back, threads=self.threads)

    def fitted(self, module: str, delta: Tensor) -> Truncated:
        """A dense ΔW as factors."""
        if not torch.isfinite(delta).all():
            raise WeftError(f"module '{module}': the merged ΔW is too large for float32")
        if self.rank is None or min(delta.shape) <= self.rank:
            return Truncated(whole(delta), 0.0)
        return truncate_delta(delta, self.rank)

    def cut(self, factors: Factors) -> Truncated:
        if self.rank is None or factors.rank <= self.rank:
            return Truncated(factors, 0.0)
        return truncate(Stack.of([factors], [1.0]), self.rank)


def side_by_side(job: Callable[[str], X], names: Sequence[str], threads: int | None) -> list[X]:
    """A job for every name, a few at a time, each on one thread; results in order."""
    made: list[X] = []

    def work() -> Work:
        yield Step(job, names, made.append)

    with threads_alone(threads) as pool:
        run_all(pool, [work()])
    return made


def _turned(source: DeltaSource, bases: Mapping[str, Basis]) -> DeltaSource:
    """The source with (s Uᵀ B) A [q, in] in the place of ΔW."""
    adapter = source.adapter
    shapes = {
        name: FactorShape(bases[name].left.shape[1], shape.inside, shape.rank, 1.0)
        for name, shape in adapter.shapes.items()
    }

    def half(module: str, half: Half) -> Tensor:
        return adapter.half(module, "a") if half == "a" else bases[module].turned[source.label]

    absent = {n: (bases[n].left.shape[1], inside) for n, (_, inside) in source.absent.items()}
    factors = LazyFactors(shapes, half)
    return replace(source, adapter=Adapter(factors, adapter.manifest), absent=absent)


def _check_finite(factors: Mapping[str, Factors]) -> None:
    for module, one in factors.items():
        sizes = (one.a.abs().max(), one.b.abs().max(), torch.tensor(one.scaling))
        if not all(math.isfinite(size) for size in sizes):
            raise WeftError(f"module '{module}': the merged factors are too large for float32")


def _recipe(one: _Merge, space: Space, merged: Mapping[str, Truncated]) -> dict[str, Any]:
    """What was merged how, and what was lost by it."""
    from weft.merging.methods import method_options

    parts, method = one.parts, one.method
    same = len({tuple(row) for row in parts.table.values()}) == 1
    table: Any = next(iter(parts.table.values())) if same else dict(parts.table)
    settings = {name: value for name, value in method_options(method).items() if name != "name"}
    recipe: dict[str, Any] = {"method": method.name}
    recipe |= {"settings": settings} if settings else {}
    recipe |= {"space": space, "weights": table, "labels": list(parts.adapters)}
    recipe |= {"written": written(merged)}
    recipe |= {"missing": parts.missing} if parts.missing else {}
    if one.rank is not None:
        errors = {module: float(f"{made.error:.3g}") for module, made in merged.items()}
        values = list(errors.values()) or [0.0]
        said = {"max": max(values), "mean": math.fsum(values) / len(values), "modules": errors}
        recipe |= {"rank": one.rank, "truncation": said | kept_shares(merged)}
    return recipe


def _manifest(parts: Parts, recipe: dict[str, Any]) -> dict[str, Any]:
    columns = list(zip(*parts.table.values(), strict=True))  # weights of each part
    every = list(parts.adapters.values())
    alive = [one for one, weights in zip(every, columns, strict=False) if any(weights)]
    adapters = alive or every  # a part of weight 0 takes no part
    first = every[0].manifest
    domains = dict.fromkeys(name for part in adapters for name in part.manifest.get("domains", []))
    manifest = {
        "backbone": first["backbone"],
        "domains": list(domains),
        "data": {n: h for part in adapters for n, h in part.manifest.get("data", {}).items()},
        "parents": [part.weights_hash for part in adapters],
        "merge": recipe,
        "versions": {"weft": __version__},
    }
    if "recommender" in first:
        manifest["recommender"] = first["recommender"]
    split = first.get("split")  # of the training: another may test what was trained on
    if split is not None and all(part.manifest.get("split") == split for part in adapters):
        manifest["split"] = split
    return manifest
