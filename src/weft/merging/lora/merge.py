"""Merging adapters without a backbone in memory, module by module."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack

import torch
from torch import Tensor

from weft import __version__
from weft.adapters.adapter import Adapter
from weft.adapters.factors import Factors, FactorShape, Half, LazyFactors
from weft.errors import DataError, SettingError
from weft.merging.engine.method import Method
from weft.merging.engine.schedule import Step, Work, run_all, threads_alone
from weft.merging.engine.source import TensorSource
from weft.merging.engine.stream import Merge
from weft.merging.lora.dense import merge_each
from weft.merging.lora.lowrank import (
    StackedFactors,
    Truncated,
    average_factors,
    concatenate,
    truncate,
    truncate_delta,
    whole,
)
from weft.merging.lora.parts import AdapterParts, Space, Weigh, gather
from weft.merging.lora.saved_modules import check_saved, merge_rows, merge_saved
from weft.merging.lora.sources import DeltaSource
from weft.merging.lora.truncation import norm_shares, written
from weft.merging.methods.registry import make_method, method_options
from weft.merging.part_options import PartOptions

if TYPE_CHECKING:
    from weft.merging.methods.base import CommonBasis, FactorKernel, MergeMethod

X = TypeVar("X")


class AdapterKeywords(TypedDict, total=False):
    """What `merge_adapters` takes by name."""

    space: Space
    rank: int | None
    labels: Sequence[str] | None
    threads: int | None
    base: TensorSource | None
    union: bool
    options: PartOptions | None


@dataclass(frozen=True, eq=False, kw_only=True)
class AdapterSettings:
    """How adapters are merged, beside the method and the weights; see `merge_adapters`."""

    space: Space = "delta"
    rank: int | None = None
    labels: Sequence[str] | None = None
    threads: int | None = None
    base: TensorSource | None = None
    union: bool = False
    options: PartOptions | None = None

    def __post_init__(self) -> None:
        if self.space not in ("delta", "factors"):
            raise SettingError(f"space is {self.space!r}, neither delta nor factors")
        if self.rank is not None and self.rank < 1:
            raise SettingError(f"a merge needs a rank of at least 1, not {self.rank}")


def merge_adapters(
    parts: Sequence[Adapter],
    method: str | Mapping[str, Any] | Method = "linear",
    weights: Sequence[float] | Weigh | None = None,
    **settings: Unpack[AdapterKeywords],
) -> Adapter:
    """One adapter out of several of one backbone, by any method; float32 factors.

    `weights`: one a part, or a function of a module's name (and of a saved tensor's) that gives
    them; by default the method's own. They are taken as they are.

    `space: delta` merges ΔW = s B A. Weighted sums (`linear`, `task_arithmetic`, `concat`) are
    exact at rank Σ r_k; `lego` and `knots` work on the factors; every other method's ΔW is formed
    a few rows at a time and kept as it is (rank min(out, in)). With `rank`, the result is the best
    approximation of at most that rank, and the manifest says what was lost
    (`merge.truncation`: ‖lost‖ / ‖ΔW‖ in Frobenius norm). For `lego`, `rank` is the number of
    clusters. `space: factors` merges A and B each by itself; parts need one rank and scaling.

    Modules are matched to the names of the first part, across known wrappers
    (`weft.merging.lora.module_names`). A module that a part lacks has ΔW = 0 there, and the manifest names
    it (`merge.missing`); a part with fewer than half of its modules in common with the others is
    refused unless `union` allows it. `options` gives, by a module's or saved tensor's name, what
    single parts have for the method's options.
    Tensors saved whole are merged as weights (`weft.merging.lora.saved_modules`), with those of `base`
    where it is given. Adapters of different backbones or recommenders are refused. The result has
    the same bits whatever the number of threads, and in whatever order the parts are named, unless
    the order means something to the method.

    >>> import torch
    >>> from weft.adapters import Adapter, Factors
    >>> def rank_one(row: list[float]) -> Adapter:
    ...     factors = Factors(torch.tensor([row]), torch.ones(2, 1), scaling=1.0)
    ...     return Adapter({"query": factors}, {"backbone": {"name": "b", "fingerprint": "b"}})
    >>> merged = merge_adapters([rank_one([1.0, 0.0]), rank_one([0.0, 4.0])], weights=[1.0, 0.5])
    >>> merged.factors["query"].rank, merged.factors["query"].delta()
    (2, tensor([[1., 2.],
            [1., 2.]]))
    """
    checked = AdapterSettings(**settings)
    chosen = adapter_method(make_method(method))
    gathered = gather(parts, checked.labels, chosen, weights, checked.space, union=checked.union)
    return merge_gathered(replace(gathered, options=checked.options), chosen, checked)


def adapter_method(method: Method) -> MergeMethod:
    """The method with all that merging adapters asks of one; a `SettingError` where it has not."""
    from weft.merging.methods.base import MergeMethod

    if not isinstance(method, MergeMethod):
        raise SettingError(
            f"method '{method.name}' can't merge adapters: it is no {MergeMethod.__name__}"
        )
    if method.checkpoints_only:
        raise SettingError(f"method '{method.name}' is for checkpoints, not for adapters")
    return method


def check_gathered(parts: AdapterParts) -> None:
    """A `WeftError` for what `merge_gathered` would refuse of the parts, before any work."""
    _ = parts.header  # disagreements are an error
    check_saved(parts)


def merge_gathered(parts: AdapterParts, method: MergeMethod, settings: AdapterSettings) -> Adapter:
    """`merge_adapters` of parts that have their weights."""
    modules = _Modules(parts, method, settings.rank, settings.threads)
    header = parts.header  # disagreements are errors before any work
    base, threads = settings.base, settings.threads
    saved = {**parts.carried, **merge_saved(parts, method, base=base, threads=threads)}
    tokens = merge_rows(parts, method, base=base, threads=threads)
    if settings.space == "factors":
        merged: Mapping[str, Truncated] = modules.in_factors()
    else:
        merged = method.merge_deltas(modules)
    factors = {module: merged[module].factors for module in parts.modules}
    _check_finite(factors)
    manifest = _manifest(parts, _recipe(modules, settings.space, merged))
    return Adapter(factors, manifest, saved, tokens, header)


@dataclass(frozen=True, eq=False)
class _Modules:
    """The modules of the parts, and the ways to merge them (`ModuleMerge`)."""

    parts: AdapterParts
    method: MergeMethod
    rank: int | None
    threads: int | None

    def summed(self) -> dict[str, Truncated]:
        return self.each(self._sum)

    def dense(self) -> dict[str, Truncated]:
        merge = self._engine_merge(self.parts.deltas(), self.method)
        return merge_each(merge, self._fitted, threads=self.threads)

    def by_factors(self, kernel: FactorKernel) -> dict[str, Truncated]:
        def merged(module: str) -> Truncated:
            factors, weights = self.parts.of(module, alive=True).lists
            return self._cut(kernel(factors, weights, self.rank))

        return self.each(merged)

    def in_bases(
        self, basis: Callable[[Mapping[str, Factors]], CommonBasis], method: Method
    ) -> dict[str, Truncated]:
        """Every part turned into the common bases, merged there, and turned back."""
        modules = list(self.parts.modules)
        every = side_by_side(lambda name: basis(self.parts.of(name).factors), modules, self.threads)
        bases = dict(zip(modules, every, strict=True))
        sources = [_turned(source, bases) for source in self.parts.deltas()]

        def back(module: str, merged: Tensor) -> Truncated:
            common = bases[module]
            merged = merged * common.sizes[:, None].float()
            if self.rank is None or len(merged) <= self.rank:
                return Truncated(Factors(merged, common.left.float(), 1.0), 0.0)
            inner = self._fitted(module, merged)
            outer = common.left.float() @ inner.factors.b
            return replace(inner, factors=replace(inner.factors, b=outer))

        return merge_each(self._engine_merge(sources, method), back, threads=self.threads)

    def in_factors(self) -> dict[str, Truncated]:
        """A and B, each merged by itself."""
        if not self.method.merges_factors:
            raise SettingError(f"method '{self.method.name}' merges ΔW: it needs space: delta")
        if self.method.is_sum:
            return self.each(self._averaged)
        merge = self._engine_merge(self.parts.halves(), self.method)
        halves = merge_each(merge, lambda _, half: half, threads=self.threads)
        shapes = next(iter(self.parts.adapters.values())).shapes
        return self.each(
            lambda module: self._cut(
                Factors(
                    halves[f"{module}.lora_A"], halves[f"{module}.lora_B"], shapes[module].scaling
                )
            )
        )

    def each(self, job: Callable[[str], Truncated]) -> dict[str, Truncated]:
        modules = list(self.parts.modules)
        return dict(zip(modules, side_by_side(job, modules, self.threads), strict=True))

    def _engine_merge(self, sources: Sequence[TensorSource], method: Method) -> Merge:
        return Merge(sources, method, self.parts.weigh, None, self.parts.options_of)

    def _sum(self, module: str) -> Truncated:
        factors, weights = self._weighted(module)
        if self.rank is None or sum(one.rank for one in factors) <= self.rank:
            return Truncated(concatenate(factors, weights), 0.0)
        return truncate(StackedFactors.of(factors, weights), self.rank)

    def _averaged(self, module: str) -> Truncated:
        return self._cut(average_factors(*self._weighted(module)))

    def _weighted(self, module: str) -> tuple[list[Factors], list[float]]:
        """Factors of parts that count, and what multiplies them in a weighted sum."""
        group = self.parts.of(module, alive=True)
        table = self.method.sum_weights(self.parts.table[module])
        weights = dict(zip(self.parts.adapters, table, strict=True))
        if not all(math.isfinite(weights[k] * one.scaling) for k, one in group.factors.items()):
            raise SettingError(f"module '{module}': the weights {table} are too large")
        return list(group.factors.values()), [weights[label] for label in group.factors]

    def _fitted(self, module: str, delta: Tensor) -> Truncated:
        """A dense ΔW as factors."""
        if not torch.isfinite(delta).all():
            raise DataError(f"module '{module}': the merged ΔW is too large for float32")
        if self.rank is None or min(delta.shape) <= self.rank:
            return Truncated(whole(delta), 0.0)
        return truncate_delta(delta, self.rank)

    def _cut(self, factors: Factors) -> Truncated:
        if self.rank is None or factors.rank <= self.rank:
            return Truncated(factors, 0.0)
        return truncate(StackedFactors.of([factors], [1.0]), self.rank)


def side_by_side(job: Callable[[str], X], names: Sequence[str], threads: int | None) -> list[X]:
    """A job for every name, a few at a time, each on one thread; results in order."""
    results: list[X] = []

    def work() -> Work:
        yield Step(job, names, results.append)

    with threads_alone(threads) as pool:
        run_all(pool, [work()])
    return results


def _turned(source: DeltaSource, bases: Mapping[str, CommonBasis]) -> DeltaSource:
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
            raise DataError(f"module '{module}': the merged factors are too large for float32")


def _recipe(merge: _Modules, space: Space, merged: Mapping[str, Truncated]) -> dict[str, Any]:
    """What was merged how, and what was lost by it."""
    parts, method = merge.parts, merge.method
    same = len({tuple(row) for row in parts.table.values()}) == 1
    table: Any = next(iter(parts.table.values())) if same else dict(parts.table)
    settings = {name: value for name, value in method_options(method).items() if name != "name"}
    recipe: dict[str, Any] = {"method": method.name}
    recipe |= {"settings": settings} if settings else {}
    recipe |= {"space": space, "weights": table, "labels": list(parts.adapters)}
    recipe |= {"written": written(merged)}
    recipe |= {"missing": parts.missing} if parts.missing else {}
    if merge.rank is not None:
        errors = {module: float(f"{one.error:.3g}") for module, one in merged.items()}
        values = list(errors.values()) or [0.0]
        errors_in_short = {
            "max": max(values),
            "mean": math.fsum(values) / len(values),
            "modules": errors,
        }
        recipe |= {"rank": merge.rank, "truncation": errors_in_short | norm_shares(merged)}
    return recipe


def _manifest(parts: AdapterParts, recipe: dict[str, Any]) -> dict[str, Any]:
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
