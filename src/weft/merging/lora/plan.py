"""The plan of a merge of adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from weft.adapters.peft_writing import check_factor_dtype, rounded
from weft.artifacts.atomic import check_folder
from weft.errors import MismatchError, SettingError
from weft.merging.engine.method import Method
from weft.merging.limits import NO_LIMITS, MergeLimits, ReportProgress
from weft.merging.lora.backbone_weights import lacks_fingerprint, state_backbone
from weft.merging.lora.merge import (
    AdapterSettings,
    adapter_method,
    check_gathered,
    merge_gathered,
)
from weft.merging.lora.parts import AdapterParts, gather
from weft.merging.part_options import part_options
from weft.merging.parts import OpenedParts, open_base
from weft.merging.paths import locate
from weft.merging.plan import Merged, MergePlan
from weft.merging.recipe import MergeRecipe
from weft.merging.vocabulary.adapters import check_adapter_rows
from weft.merging.vocabulary.rules import ROWS
from weft.merging.weights import Weights, WeightSpec, resolve_weights


def plan_adapters(
    recipe: MergeRecipe, parts: OpenedParts, method: Method, specs: Sequence[WeightSpec]
) -> AdapterPlan:
    """Check that the adapters fit each other and the method, and put them on one backbone."""
    _check_settings(recipe)
    parts, names_backbone = _on_backbone(parts, recipe)
    if recipe.tokenizer is None:
        check_adapter_rows(*parts.present)
    weights = resolve_weights(specs, parts.names, parts.labels)
    options = recipe.options
    of_parts = None
    if options is not None:
        of_parts = part_options(method, options, parts.names, parts.labels)
    _check_changes(parts, recipe.base is not None and not names_backbone, weights)
    check_factor_dtype(None if recipe.dtype is None else getattr(torch, recipe.dtype))
    gathered = gather(
        parts.adapters,
        parts.labels,
        adapter_method(method),
        weights,
        recipe.space or "delta",
        union=recipe.union,
    )
    gathered = replace(gathered, options=of_parts)
    check_gathered(gathered)
    return AdapterPlan(
        recipe=recipe,
        parts=parts,
        method=method,
        specs=specs,
        weights=weights,
        base=open_base(recipe),
        options=of_parts,
        tokenizer=recipe.tokenizer,
        gathered=gathered,
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class AdapterPlan(MergePlan):
    gathered: AdapterParts

    @property
    def widened(self) -> str | None:
        kinds = {one.dtype for one in self.parts.adapters}
        small = kinds & {torch.bfloat16, torch.float16}
        if self.dtype is not None or len(kinds) != 1 or not small:
            return None
        return str(small.pop()).removeprefix("torch.")

    def run(
        self,
        out: Path | str | None = None,
        limits: MergeLimits = NO_LIMITS,
        progress: ReportProgress | None = None,
    ) -> Merged:
        folder = None if out is None else Path(out)
        if folder is not None:
            check_folder(folder, new=True)  # before the work, not after it
        settings = AdapterSettings(
            space=self.recipe.space or "delta",
            rank=self.recipe.rank,
            threads=limits.threads,
            base=self.base,
        )
        merged = merge_gathered(self.gathered, adapter_method(self.method), settings)
        merge = {**merged.manifest.get("merge", {}), "recipe": self.resolved(folder)}
        merged = replace(merged, manifest={**merged.manifest, "merge": merge})
        if folder is None:
            return merged if self.dtype is None else rounded(merged, self.dtype)
        from weft.merging.checkpoints.companion_files import (
            folder_with_catalogue,
            save_merged_adapter,
        )

        _, labels, paths = self.parts.present
        keeper = folder_with_catalogue(self.parts.paths[0], paths[0])
        save_merged_adapter(merged, folder, labels, paths, catalogue=keeper, dtype=self.dtype)
        return None


def _check_settings(recipe: MergeRecipe) -> None:
    if recipe.tokenizer is not None and recipe.tokenizer.source != ROWS:
        raise SettingError(
            "tokenizer is for checkpoints: fold each adapter into one (weft fold), or say that "
            "rows mean the same in all (rows)"
        )
    if recipe.round_to is not None:
        raise SettingError("round_to is for checkpoints: an adapter's ΔW is formed in float32")


def _on_backbone(parts: OpenedParts, recipe: MergeRecipe) -> tuple[OpenedParts, bool]:
    """Adapters as those of the backbone that the base names, and whether it is one: where some
    know theirs by its name alone, or none has another use for a base."""
    base = recipe.base
    if not isinstance(base, str):
        return parts, False
    used = any(one.saved or one.tokens for one in parts.adapters)
    if used and not any(map(lacks_fingerprint, parts.adapters)):
        return parts, False
    weights, folder = open_base(recipe), locate(base)
    assert weights is not None
    name = str(folder.resolve()) if Path(base).exists() else base
    adapters = state_backbone(parts.adapters, parts.labels, name, folder, weights)
    return replace(parts, adapters=adapters), True


def _check_changes(parts: OpenedParts, with_base: bool, weights: Weights) -> None:
    """Each part that takes part must change something: an untrained one has B = 0 everywhere."""
    for row, one in enumerate(parts.adapters):
        if any(weights(name)[row] for name in parts.names) and one.changes_nothing():
            raise SettingError(
                f"{parts.labels[row]} changes nothing: its factors are zero, as before training"
            )
    if not any(any(weights(name)) for name in parts.names):
        raise SettingError("every weight is 0, so the merged adapter would change nothing")
    if with_base and not any(one.saved or one.tokens for one in parts.adapters):
        raise MismatchError(
            "base: adapters are differences already, and none of these saves tensors whole"
        )
