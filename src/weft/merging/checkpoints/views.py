"""Sources seen otherwise: under another label, only some tensors, an adapter among full weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from weft.errors import MismatchError
from weft.merging.engine.source import Spec, TensorSource


@dataclass(frozen=True, eq=False)
class Renamed:
    """A source under another label."""

    label: str
    source: TensorSource

    @property
    def specs(self) -> Mapping[str, Spec]:
        return self.source.specs

    def read(self, name: str, start: int, count: int) -> Tensor:
        return self.source.read(name, start, count)


@dataclass(frozen=True, eq=False)
class Single:
    """Some tensors of a source."""

    source: TensorSource
    names: tuple[str, ...]

    @property
    def label(self) -> str:
        return self.source.label

    @cached_property
    def specs(self) -> Mapping[str, Spec]:
        return {name: self.source.specs[name] for name in self.names}

    def read(self, name: str, start: int, count: int) -> Tensor:
        return self.source.read(name, start, count)


@dataclass(frozen=True, eq=False)
class Matched:
    """A source with other names for its tensors, and without those that have none."""

    source: TensorSource
    names: Mapping[str, str]  # name here -> name in the source

    @property
    def label(self) -> str:
        return self.source.label

    @cached_property
    def specs(self) -> Mapping[str, Spec]:
        return {name: self.source.specs[stored] for name, stored in self.names.items()}

    @property
    def signature(self) -> str:
        return repr(sorted(self.names.items()))

    def read(self, name: str, start: int, count: int) -> Tensor:
        return self.source.read(self.names[name], start, count)


@dataclass(frozen=True, eq=False)
class Absent:
    """A part of weight 0: never read, it takes no part. It has the tensors of a part that does."""

    label: str
    present: TensorSource

    @property
    def specs(self) -> Mapping[str, Spec]:
        return self.present.specs

    def read(self, name: str, start: int, count: int) -> Tensor:
        """Zeros, but integers as they are in the part that is present."""
        spec = self.specs[name]
        if not spec.dtype.is_floating_point:
            return self.present.read(name, start, count)
        return torch.zeros(count, dtype=spec.dtype)


@dataclass(frozen=True, eq=False)
class PlacedAdapter:
    """An adapter's ΔW under the names of full weights; zero where the adapter has no module.

    Integer tensors are those of the `whole`, so that they are the same in all parts.
    """

    label: str
    deltas: TensorSource  # module -> ΔW
    modules: Mapping[str, str]  # tensor name -> module
    shapes: Mapping[str, Spec]
    whole: TensorSource | None = None

    @cached_property
    def specs(self) -> Mapping[str, Spec]:
        return {
            name: Spec(spec.shape, torch.float32) if spec.dtype.is_floating_point else spec
            for name, spec in self.shapes.items()
        }

    def read(self, name: str, start: int, count: int) -> Tensor:
        module = self.modules.get(name)
        if module is not None:
            return self.deltas.read(module, start, count)
        if self.whole is not None and not self.specs[name].dtype.is_floating_point:
            return self.whole.read(name, start, count)
        return torch.zeros(count)


def place_on(deltas: Sequence[TensorSource], whole: TensorSource | None) -> list[PlacedAdapter]:
    """Adapters on a checkpoint's names, or, without one, all on the names of all their modules."""
    if whole is not None:
        return [
            PlacedAdapter(one.label, one, _modules(one, whole), whole.specs, whole)
            for one in deltas
        ]
    shapes: dict[str, Spec] = {}
    for one in deltas:
        for name, spec in one.specs.items():
            if shapes.setdefault(name, spec).shape != spec.shape:
                raise MismatchError(
                    f"module '{name}' has the shape {list(spec.shape)} in {one.label} "
                    f"and {list(shapes[name].shape)} in another adapter"
                )
    return [PlacedAdapter(one.label, one, {n: n for n in one.specs}, shapes) for one in deltas]


def _modules(deltas: TensorSource, whole: TensorSource) -> dict[str, str]:
    """Tensor -> module, every module of the adapter at its place among the tensors.

    The names are the same but for one prefix ("model.", "bert.") that either side may have.
    """
    ways = {tuple(way.items()): way for way in _ways(list(deltas.specs), whole)}
    most = max((len(way) for way in ways.values()), default=0)
    best = [way for way in ways.values() if len(way) == most]
    if most < len(deltas.specs):
        placed = set(best[0].values()) if best else set()
        lacking = [module for module in deltas.specs if module not in placed]
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise MismatchError(
            f"{deltas.label} has the module '{lacking[0]}'{more}, "
            f"but {whole.label} has no weight of that name"
        )
    if len(best) > 1:
        names = " and ".join(f"'{next(iter(way), '')}'" for way in best[:2])
        raise MismatchError(
            f"the modules of {deltas.label} fit two places in {whole.label}: {names}"
        )
    for name, module in best[0].items():
        shape, its = deltas.specs[module].shape, whole.specs[name].shape
        if shape != its:
            raise MismatchError(
                f"module '{module}' has the shape {list(shape)} in {deltas.label}, "
                f"but '{name}' has {list(its)} in {whole.label}"
            )
    return best[0]


def _ways(modules: Sequence[str], whole: TensorSource) -> Iterator[dict[str, str]]:
    """For every prefix: the modules that are then found. The names as they are win outright."""
    as_they_are = _placed_modules(modules, whole, "", "")
    yield as_they_are
    if len(as_they_are) == len(modules):
        return
    first = modules[0]
    ending = f".{first}.weight"
    for name in whole.specs:
        if name.endswith(ending):
            yield _placed_modules(modules, whole, "", name.removesuffix(ending) + ".")
    words = first.split(".")
    for at in range(1, len(words)):
        yield _placed_modules(modules, whole, ".".join(words[:at]) + ".", "")


def _placed_modules(
    modules: Sequence[str], whole: TensorSource, less: str, more: str
) -> dict[str, str]:
    names = {f"{more}{m.removeprefix(less)}.weight": m for m in modules if m.startswith(less)}
    return {name: module for name, module in names.items() if name in whole.specs}
