"""A merge that is decided and opened, and its recipe in plain numbers."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from weft.merging.engine.method import Method
from weft.merging.engine.source import Source
from weft.merging.lora.parts import Space
from weft.merging.methods import method_options
from weft.merging.part_options import PartOptions
from weft.merging.parts import Parts
from weft.merging.recipe import SHARD_SIZE, MeanOf, bytes_of
from weft.merging.stacked import Stack
from weft.merging.vocabulary.rules import TokenizerRules
from weft.merging.weights import Weights, weight_spec

SHARDS = bytes_of(SHARD_SIZE)


@dataclass(frozen=True, eq=False)
class Job:
    """A merge with everything decided and opened, but not yet computed."""

    parts: Parts
    method: Method
    specs: tuple[Any, ...]  # K weights as said
    weights: Weights
    base: Source | None
    bases: str | MeanOf | Stack | None  # paths
    space: Space
    rank: int | None
    dtype: torch.dtype | None
    union: bool = False
    default_weights: bool = False  # the method's own: the caller said none
    options: tuple[Mapping[str, Any], ...] = ()  # of each part, as said
    own: PartOptions | None = None  # name -> option -> K values
    stacks: tuple[Stack | None, ...] = ()  # of each part
    tokenizer: TokenizerRules | None = None
    backbone: str | None = None
    round_to: torch.dtype | Literal["stored"] | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of what was decided."""
        unused = (f"{pattern} fits no tensor" for pattern in self.weights.unused)
        return (*self.parts.notes, *unused, *self._scaled)

    @property
    def _scaled(self) -> list[str]:
        """Of weights of checkpoints that are summed as they are: where that is no mean."""
        if self.parts.kind == "adapters" or self.method.name != "linear":
            return []
        if getattr(self.method, "normalize", False) or not all(map(_is_number, self.specs)):
            return []
        total = math.fsum(self.specs)
        if abs(total - 1) <= 1e-3:
            return []
        note = (
            f"the weights sum to {total:g}, so every tensor is {total:g} times a mean of the parts: "
            "--normalize (normalize: true) divides by the sum"
        )
        return [note]

    @property
    def widened(self) -> str | None:
        """The dtype of adapters that all have one of fewer bits than what comes out."""
        kinds = {one.dtype for one in self.parts.adapters}
        small = kinds & {torch.bfloat16, torch.float16}
        if self.dtype is not None or len(kinds) != 1 or not small:
            return None
        return str(small.pop()).removeprefix("torch.")

    def recipe(self, beside: Path | None = None, shard_bytes: int = SHARDS) -> dict[str, Any]:
        """What was decided, in plain numbers, as JSON; with paths relative to a folder."""

        def there(path: Path | str) -> str:
            whole = Path(path).resolve()
            return str(whole) if beside is None else os.path.relpath(whole, beside.resolve())

        parts: list[dict[str, Any]] = []
        for k, (label, path, spec) in enumerate(
            zip(self.parts.labels, self.parts.paths, self.specs, strict=True)
        ):
            where: dict[str, Any] = {} if path is None else {"path": there(path)}
            if self.stacks and (stack := self.stacks[k]) is not None:
                where = _sliced(stack, there)
            own = self.options[len(parts)] if self.options else {}
            more = {name: _plain(weight_spec(value)) for name, value in own.items()}
            parts.append(where | {"name": label, "weight": _plain(spec)} | more)
        found: dict[str, Any] = {"method": method_options(self.method), "parts": parts}
        if isinstance(self.bases, MeanOf):
            found["base"] = {"mean_of": [there(path) for path in self.bases.mean_of]}
        elif isinstance(self.bases, Stack):
            found["base"] = _sliced(self.bases, there)
        elif self.bases is not None:
            found["base"] = there(self.bases)
        if self.parts.kind == "adapters":
            found["space"] = self.space
        if self.rank is not None:
            found["rank"] = self.rank
        if self.union:
            found["union"] = True
        if self.dtype is not None:
            found["dtype"] = str(self.dtype).removeprefix("torch.")
        if self.tokenizer is not None:
            found["tokenizer"] = self.tokenizer.plain()
        if self.backbone is not None:
            found["backbone"] = self.backbone
        if self.round_to is not None:
            found["round_to"] = str(self.round_to).removeprefix("torch.")
        if shard_bytes != SHARDS:
            found["shard_size"] = str(shard_bytes)
        return found


def _sliced(stack: Stack, there: Callable[[Path | str], str]) -> dict[str, Any]:
    """The slices as a recipe says them."""
    return {
        "slices": [
            {"path": there(one.path), "layers": [one.start, one.end]} for one in stack.slices
        ]
    }


def _is_number(spec: Any) -> bool:
    return isinstance(spec, int | float)


def _plain(spec: Any) -> Any:
    if isinstance(spec, tuple):
        return [_plain(one) for one in spec]
    if hasattr(spec, "model_dump"):
        return spec.model_dump(mode="json", exclude_defaults=True)
    return spec
