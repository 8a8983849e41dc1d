"""A merge that is decided and opened, but not yet computed."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from weft.adapters.adapter import Adapter
from weft.merging.engine.method import Method
from weft.merging.engine.source import TensorSource
from weft.merging.limits import NO_LIMITS, MergeLimits, ReportProgress
from weft.merging.methods.registry import make_method, method_options
from weft.merging.part_options import PartOptions
from weft.merging.parts import OpenedParts, open_parts
from weft.merging.paths import bytes_of, locate
from weft.merging.recipe import SHARD_SIZE, MeanOf, MergeRecipe, SliceSpec, StackSpec
from weft.merging.weights import Weights, WeightSpec, check_count, is_zero, weight_spec

if TYPE_CHECKING:
    from weft.merging.vocabulary.rules import TokenizerRules

Merged = Adapter | dict[str, Tensor] | None
_SHARDS = bytes_of(SHARD_SIZE)


def plan_recipe(recipe: MergeRecipe) -> MergePlan:
    """Open everything that a recipe names, check it, and decide every weight.

    >>> import torch
    >>> recipe = MergeRecipe.of([{"x": torch.zeros(2)}, {"x": torch.ones(2)}], weights=[1, 0.5])
    >>> plan = plan_recipe(recipe)
    >>> plan.weights("x"), plan.run()
    ([1.0, 0.5], {'x': tensor([0.5000, 0.5000])})
    """
    method = make_method(recipe.method)
    count = len(recipe.parts)
    specs = recipe.weights or [weight_spec(one) for one in method.default_weights(count)]
    parts = open_parts(recipe, absent_parts(method, specs) if len(specs) == count else ())
    method.check(count)
    check_count(specs, count)
    if parts.kind == "adapters":
        from weft.merging.lora.plan import plan_adapters

        return plan_adapters(recipe, parts, method, specs)
    from weft.merging.checkpoints.plan import plan_checkpoints

    return plan_checkpoints(recipe, parts, method, specs)


def absent_parts(method: Method, specs: Sequence[Any]) -> list[bool]:
    """Which parts have a weight of 0 for every tensor, where the method leaves such parts out."""
    zero = [is_zero(spec) for spec in specs]
    skips = method.skips_zero and not all(zero)
    return [skips and one for one in zero]


@dataclass(frozen=True, eq=False, kw_only=True)
class MergePlan(ABC):
    """A recipe with everything decided and opened: `run` computes it."""

    recipe: MergeRecipe
    parts: OpenedParts
    method: Method
    specs: Sequence[WeightSpec]  # one a part: the recipe's, or the method's own
    weights: Weights
    base: TensorSource | None
    options: PartOptions | None = None  # name -> option -> K values
    tokenizer: TokenizerRules | None = None

    @abstractmethod
    def run(
        self,
        out: Path | str | None = None,
        limits: MergeLimits = NO_LIMITS,
        progress: ReportProgress | None = None,
    ) -> Merged:
        """Compute what was planned.

        With `out` the result is written to that new folder, whole or not at all, and nothing is
        returned; without, adapters give an `Adapter` and tensors in memory a dict of tensors.
        """

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of what was decided."""
        unused = (f"{pattern} fits no tensor" for pattern in self.weights.unused)
        return (*self.parts.notes, *unused, *self._scaled)

    @property
    def widened(self) -> str | None:
        """The dtype of adapters that all have one of fewer bits than what comes out."""
        return None

    @property
    def dtype(self) -> torch.dtype | None:
        """Of the result, where the recipe states one."""
        dtype: torch.dtype | None = getattr(torch, self.recipe.dtype or "", None)
        return dtype

    @property
    def base_path(self) -> Path | None:
        """Where the base lies, if it is one folder or file."""
        base = self.recipe.base
        return locate(base) if isinstance(base, str) else None

    @property
    def default_weights(self) -> bool:
        """Whether the weights are the method's own: the recipe has none."""
        return self.recipe.weights is None

    @property
    def _scaled(self) -> list[str]:
        """Of weights of checkpoints that are summed as they are: where that is no mean."""
        if self.parts.kind == "adapters" or self.method.name != "linear":
            return []
        numbers = [spec for spec in self.specs if isinstance(spec, int | float)]
        if getattr(self.method, "normalize", False) or len(numbers) < len(self.specs):
            return []
        total = math.fsum(numbers)
        if abs(total - 1) <= 1e-3:
            return []
        note = (
            f"the weights sum to {total:g}, so every tensor is {total:g} times a mean of the parts: "
            "--normalize (normalize: true) divides by the sum"
        )
        return [note]

    def resolved(self, beside: Path | None = None) -> dict[str, Any]:
        """What was decided, in plain numbers, as JSON; with paths relative to a folder."""
        recipe, places = self.recipe, _Places(beside)
        resolved: dict[str, Any] = {
            "method": method_options(self.method),
            "parts": [self._resolved_part(k, places) for k in range(len(recipe.parts))],
        }
        if isinstance(recipe.base, MeanOf):
            resolved["base"] = {"mean_of": [places.there(path) for path in recipe.base.mean_of]}
        elif isinstance(recipe.base, StackSpec):
            resolved["base"] = places.slices(recipe.base.slices)
        elif self.base_path is not None:
            resolved["base"] = places.there(self.base_path)
        if self.parts.kind == "adapters":
            resolved["space"] = recipe.space or "delta"
        stated = {
            "rank": recipe.rank,
            "union": recipe.union or None,
            "dtype": recipe.dtype,
            "tokenizer": None if self.tokenizer is None else self.tokenizer.plain(),
            "backbone": recipe.backbone,
            "round_to": recipe.round_to,
        }
        resolved |= {name: value for name, value in stated.items() if value is not None}
        if bytes_of(recipe.shard_size) != _SHARDS:
            resolved["shard_size"] = str(bytes_of(recipe.shard_size))
        return resolved

    def _resolved_part(self, k: int, places: _Places) -> dict[str, Any]:
        part, path = self.recipe.parts[k], self.parts.paths[k]
        where: dict[str, Any] = {} if path is None else {"path": places.there(path)}
        if part.slices is not None:
            where = places.slices(part.slices)
        options = {name: _plain(value) for name, value in part.options.items()}
        weight = {"name": self.parts.labels[k], "weight": _plain(self.specs[k])}
        return where | weight | options


@dataclass(frozen=True)
class _Places:
    """Paths as a recipe in a folder has them."""

    beside: Path | None

    def there(self, path: Path | str) -> str:
        whole = Path(path).resolve()
        return str(whole) if self.beside is None else os.path.relpath(whole, self.beside.resolve())

    def slices(self, slices: Sequence[SliceSpec]) -> dict[str, Any]:
        return {
            "slices": [
                {"path": self.there(locate(one.path)), "layers": list(one.layers)} for one in slices
            ]
        }


def _plain(spec: Any) -> Any:
    if isinstance(spec, tuple):
        return [_plain(one) for one in spec]
    if hasattr(spec, "model_dump"):
        return spec.model_dump(mode="json", exclude_defaults=True)
    return spec
