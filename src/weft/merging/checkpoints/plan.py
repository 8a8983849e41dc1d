"""The plan of a merge of checkpoints, or of tensors in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor

from weft.errors import SettingError
from weft.merging.checkpoints.compatibility import check_fitting
from weft.merging.checkpoints.reconcile import bring_together
from weft.merging.engine.method import Method
from weft.merging.engine.options import check_part_options
from weft.merging.engine.source import Spec
from weft.merging.engine.stream import MemorySink, Merge, stream
from weft.merging.limits import NO_LIMITS, MergeLimits, ReportProgress
from weft.merging.part_options import part_options
from weft.merging.parts import OpenedParts, open_base
from weft.merging.paths import bytes_of
from weft.merging.plan import Merged, MergePlan
from weft.merging.recipe import MergeRecipe
from weft.merging.vocabulary.align import Aligned
from weft.merging.weights import WeightSpec, is_zero, resolve_weights


def plan_checkpoints(
    recipe: MergeRecipe, parts: OpenedParts, method: Method, specs: Sequence[WeightSpec]
) -> CheckpointPlan:
    """Check that the parts fit each other and the method, tensor by tensor and row by row."""
    _check_settings(recipe, method)
    dtype = None if recipe.dtype is None else getattr(torch, recipe.dtype)
    ready = bring_together(
        parts.sources,
        open_base(recipe),
        method,
        absent=[is_zero(spec) for spec in specs],
        tokenizer=recipe.tokenizer,
        dtype=dtype,
    )
    parts = replace(parts, sources=ready.parts)
    first = ready.parts[0]
    # The rules of an aligned vocabulary name models by their labels.
    rules = first.output.rules if isinstance(first, Aligned) else recipe.tokenizer
    options = recipe.options
    of_parts = None
    if options is not None:
        of_parts = part_options(method, options, parts.names, parts.labels)
    plan = CheckpointPlan(
        recipe=recipe,
        parts=parts,
        method=method,
        specs=specs,
        weights=resolve_weights(specs, parts.names, parts.labels),
        base=ready.base,
        options=of_parts,
        tokenizer=rules,
    )
    check_fitting(plan.merge, dtype)
    check_part_options(plan.merge)
    return plan


class CheckpointPlan(MergePlan):
    @property
    def merge(self) -> Merge:
        """For the engine."""
        rounding = self.recipe.round_to
        if rounding not in (None, "stored"):
            rounding = getattr(torch, str(rounding))
        return Merge(
            self.parts.sources,
            self.method,
            self.weights,
            self.base,
            self.options,
            cast("torch.dtype | Literal['stored'] | None", rounding),
        )

    def run(
        self,
        out: Path | str | None = None,
        limits: MergeLimits = NO_LIMITS,
        progress: ReportProgress | None = None,
    ) -> Merged:
        if out is None:
            return self._in_memory(limits)
        from weft.merging.checkpoints.folder_merge import CheckpointOutput, merge_into_folder

        output = CheckpointOutput(
            dtype=self.dtype,
            shard_bytes=bytes_of(self.recipe.shard_size),
            recipe=self.resolved(Path(out)),
            tokenizer=self.tokenizer,
        )
        merge_into_folder(self.merge, Path(out), output, limits, progress)
        return None

    def _in_memory(self, limits: MergeLimits) -> dict[str, Tensor]:
        if self.parts.kind == "checkpoints":
            raise SettingError("merging checkpoints needs an out: a new folder")
        dtype = self.dtype
        specs = {
            name: Spec(spec.shape, dtype) if dtype and spec.dtype.is_floating_point else spec
            for name, spec in self.parts.sources[0].specs.items()
        }
        sink = MemorySink(specs)
        stream(self.merge, sink, threads=limits.threads)
        return sink.tensors


def _check_settings(recipe: MergeRecipe, method: Method) -> None:
    """What only adapters have, and what only they can do without."""
    if getattr(method, "adapters_only", False):
        raise SettingError(f"method '{method.name}' is for adapters")
    if recipe.space not in (None, "delta") or recipe.rank is not None:
        raise SettingError(f"{'rank' if recipe.rank is not None else 'space'} is for adapters")
    if method.needs_base and recipe.base is None:
        raise SettingError(
            f"method '{method.name}' needs a base: the checkpoint that was fine-tuned"
        )
    if recipe.union:
        raise SettingError("union is for adapters: checkpoints of one model have the same tensors")
