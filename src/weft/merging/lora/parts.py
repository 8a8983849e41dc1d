"""The parts of a merge of adapters: that they fit each other, and one module of all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from weft.adapters.adapter import Adapter
from weft.adapters.factors import Factors, FactorShape
from weft.adapters.header import PeftHeader, merge_headers
from weft.errors import DataError, MismatchError, SettingError
from weft.merging.engine.method import Method
from weft.merging.lora.module_names import align
from weft.merging.lora.shared_backbone import check_one_backbone
from weft.merging.lora.sources import DeltaSource, FactorSource, module_and_side
from weft.merging.lora.token_rows import weight_of
from weft.merging.recipe import Space as Space

FOLD_EACH = "fold each into a checkpoint (weft fold) and merge these"
"""The remedy where parts trained different kinds of things."""
Weigh = Callable[[str], Sequence[float]]


@dataclass(frozen=True, eq=False)
class Group:
    """One module of the parts that have it, their weights beside them."""

    factors: Mapping[str, Factors]  # by label
    weights: Mapping[str, float]

    @property
    def lists(self) -> tuple[list[Factors], list[float]]:
        return list(self.factors.values()), list(self.weights.values())


@dataclass(frozen=True, eq=False)
class AdapterParts:
    """Adapters of one backbone by label, with the weights of every module and saved tensor."""

    adapters: Mapping[str, Adapter]
    table: Mapping[str, Sequence[float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # for people
    options: Callable[[str], Mapping[str, Sequence[float]]] | None = None

    @cached_property
    def modules(self) -> dict[str, tuple[int, int]]:
        """Every part's modules, each with the shape of its ΔW."""
        shapes = {n: s.delta for one in self.adapters.values() for n, s in one.shapes.items()}
        first = next(iter(self.adapters.values())).shapes
        return {n: shapes[n] for n in [*first, *shapes]}  # in the first part's order

    @cached_property
    def saved(self) -> list[str]:
        """Every part's tensors of modules saved whole, but for those that it carries unchanged."""
        every = dict.fromkeys(n for one in self.adapters.values() for n in one.saved)
        return [name for name in every if name not in self.carried]

    @cached_property
    def carried(self) -> dict[str, Tensor]:
        """The backbone's own weights that parts carry beside factors: the same in all of them."""
        carried: dict[str, tuple[str, Tensor]] = {}
        for label, one in self.adapters.items():
            for name in one.carried:
                for other, part in self.adapters.items():
                    if name in part.saved and name not in part.carried:
                        module = name.rpartition(".")[0]
                        raise MismatchError(
                            f"'{module}' has factors in {label} and is saved whole in {other}: "
                            f"{FOLD_EACH}"
                        )
                first, known = carried.setdefault(name, (label, one.saved[name]))
                if not torch.equal(known, one.saved[name]):
                    raise MismatchError(
                        f"'{name}', the backbone's own weight, differs in {first} and {label}: "
                        "they were trained on different backbones, or resized its vocabulary "
                        "differently"
                    )
        return {name: tensor for name, (_, tensor) in carried.items()}

    @property
    def names(self) -> list[str]:
        """All that has weights of its own."""
        return [*self.modules, *self.saved, *self.rows]

    @cached_property
    def rows(self) -> list[str]:
        """Every part's embeddings of which rows were trained alone, by their weight."""
        return list(
            dict.fromkeys(weight_of(n) for one in self.adapters.values() for n in one.tokens)
        )

    @cached_property
    def header(self) -> PeftHeader:
        """The entries of PEFT's configuration for the result."""
        return merge_headers({label: one.header for label, one in self.adapters.items()})

    @cached_property
    def missing(self) -> dict[str, list[str]]:
        """Label -> modules that only other parts have: their ΔW is 0 there."""
        lacking = {
            label: [name for name in self.modules if name not in one.factors]
            for label, one in self.adapters.items()
        }
        return {label: names for label, names in lacking.items() if names}

    @cached_property
    def order(self) -> list[str]:
        """The labels in an order that depends on the adapters' content, for sums whose bits
        must not depend on the order in which parts are named."""
        weights = list(zip(*self.table.values(), strict=True)) or [()] * len(self.adapters)
        keys = {
            label: (one.weights_hash, row, label)
            for (label, one), row in zip(self.adapters.items(), weights, strict=True)
        }
        return sorted(self.adapters, key=lambda label: keys[label])

    def of(self, module: str, *, alive: bool = False) -> Group:
        """Read one module, parts in `order`; only those of a weight that is not 0 if `alive`."""
        weights = dict(zip(self.adapters, self.table[module], strict=True))
        having = [label for label in self.order if module in self.adapters[label].factors]
        counting = [label for label in having if weights[label] or not alive]
        factors = {label: self.adapters[label].factors[module] for label in counting or having[:1]}
        for label, one in factors.items():
            if not torch.isfinite(one.a.sum() + one.b.sum()) and not (
                torch.isfinite(one.a).all() and torch.isfinite(one.b).all()
            ):
                raise DataError(f"module '{module}' of {label} holds NaN or infinity")
        return Group(factors, {label: weights[label] for label in factors})

    def deltas(self) -> list[DeltaSource]:
        """Every part for the engine, as ΔW."""
        return [
            DeltaSource(label, one, {n: self.modules[n] for n in self.missing.get(label, ())})
            for label, one in self.adapters.items()
        ]

    def halves(self) -> list[FactorSource]:
        """Every part for the engine, as A and B."""
        return [FactorSource(label, one) for label, one in self.adapters.items()]

    @property
    def options_of(self) -> Callable[[str], Mapping[str, Sequence[float]]] | None:
        """Options of single parts, of a module, of one of its factors, or of a saved tensor."""
        options = self.options
        if options is None:
            return None
        return lambda name: options(name if name in self.table else module_and_side(name)[0])

    def weigh(self, name: str) -> list[float]:
        """K weights of a module, of one of its factors, or of a tensor saved whole."""
        return list(self.table[name if name in self.table else module_and_side(name)[0]])


def gather(
    adapters: Sequence[Adapter],
    labels: Sequence[str] | None,
    method: Method,
    weights: Sequence[float] | Weigh | None,
    space: Space,
    *,
    union: bool = False,
) -> AdapterParts:
    """Check that adapters can be merged, and give every module its weights.

    Modules are matched to the names of the first part (`weft.merging.lora.module_names.align`).
    """
    if not adapters:
        raise SettingError("a merge needs at least one adapter")
    names = list(labels or (f"part {k}" for k in range(1, len(adapters) + 1)))
    if len(names) != len(adapters):
        raise SettingError(
            f"{len(adapters)} adapters need {len(adapters)} labels, not {len(names)}"
        )
    if len(set(names)) < len(names):
        raise SettingError(f"two parts are named '{max(names, key=names.count)}'")
    method.check(len(adapters))
    for label, part in zip(names[1:], adapters[1:], strict=True):
        check_one_backbone(names[0], adapters[0], label, part)
        _check_recommenders(names[0], adapters[0], label, part)
    aligned = align(adapters, names, union=union)
    parts = AdapterParts(dict(zip(names, aligned.adapters, strict=True)), notes=aligned.notes)
    _check_alike(parts, space)
    specs = method.default_weights(len(adapters)) if weights is None else weights
    table = {name: _numbers(specs, name, len(names)) for name in parts.names}
    return replace(parts, table=table)


def _numbers(specs: Sequence[float] | Weigh, name: str, count: int) -> list[float]:
    numbers = [float(weight) for weight in (specs(name) if callable(specs) else specs)]
    where = f" of '{name}'" if callable(specs) else ""
    if len(numbers) != count:
        raise SettingError(f"{count} adapters need {count} weights{where}, not {len(numbers)}")
    if not all(math.isfinite(weight) for weight in numbers):
        raise SettingError(f"the merge weights{where} must be finite numbers, not {numbers}")
    return numbers


def _check_alike(parts: AdapterParts, space: Space) -> None:
    seen: dict[str, tuple[str, FactorShape]] = {}
    for other, part in parts.adapters.items():
        for module, shape in part.shapes.items():
            known, first = seen.setdefault(module, (other, shape))
            if first.delta != shape.delta:
                raise MismatchError(
                    f"module '{module}': ΔW is {list(first.delta)} in {known} "
                    f"and {list(shape.delta)} in {other}"
                )
            if space == "factors" and (first.rank, first.scaling) != (shape.rank, shape.scaling):
                raise MismatchError(
                    f"module '{module}': {known} and {other} differ in rank or scaling, so only "
                    "space: delta can merge them"
                )
    if space == "factors" and parts.missing:
        other, modules = next(iter(parts.missing.items()))
        raise MismatchError(
            f"module '{modules[0]}' is not in {other}, so only space: delta can merge the parts"
        )


def _check_recommenders(label: str, first: Adapter, other: str, part: Adapter) -> None:
    """Factors trained to score items in one way mean nothing in another."""
    one, another = (adapter.manifest.get("recommender") for adapter in (first, part))
    if one == another:
        return
    if not isinstance(one, dict) or not isinstance(another, dict):
        lacking = label if one is None else other
        raise MismatchError(
            f"{label} and {other} can't be merged: {lacking} does not say how it "
            "scores items (recommender)"
        )
    field = min(name for name in one.keys() | another.keys() if one.get(name) != another.get(name))
    raise MismatchError(
        f"recommender.{field} is {one.get(field)} in {label} and {another.get(field)} in {other}"
    )
