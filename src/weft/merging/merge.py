"""One call for every static merge: adapters, checkpoints on disk, tensors in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from weft.adapters import Adapter
from weft.adapters.peft_writing import check_factor_dtype, rounded
from weft.artifacts.atomic import check_folder
from weft.data.source import checked
from weft.errors import WeftError
from weft.merging.alike import bring_together
from weft.merging.backbone import lacks_fingerprint, state_backbone
from weft.merging.beside import save_merged_adapter
from weft.merging.engine.method import Method
from weft.merging.engine.source import Spec
from weft.merging.engine.stream import MemorySink, Merge, stream
from weft.merging.fitting import check_fitting
from weft.merging.job import SHARDS, Job
from weft.merging.lora.parts import Space
from weft.merging.methods import make_method
from weft.merging.part_options import check_options, part_options
from weft.merging.parts import Base, Part, Parts, check_listed, open_base, open_parts
from weft.merging.recipe import (
    MeanOf,
    MergeRecipe,
    SliceSpec,
    StackSpec,
    locate,
)
from weft.merging.stacked import Slice, Stack
from weft.merging.vocabulary.adapters import check_adapter_rows
from weft.merging.vocabulary.align import Aligned
from weft.merging.vocabulary.rules import ROWS, TokenizerRules
from weft.merging.weights import Weights, check_count, is_zero, resolve_weights, weight_spec

if TYPE_CHECKING:
    from weft.merging.folder import Progress

Merged = Adapter | dict[str, Tensor] | None


def merge(
    parts: Sequence[Part],
    method: str | Mapping[str, Any] | Method = "linear",
    weights: Sequence[Any] | None = None,
    *,
    base: Base | None = None,
    space: Space = "delta",
    rank: int | None = None,
    dtype: torch.dtype | str | None = None,
    out: str | Path | None = None,
    shard_bytes: int = SHARDS,
    threads: int | None = None,
    memory: int | None = None,
    labels: Sequence[str | None] | None = None,
    union: bool = False,
    options: Sequence[Mapping[str, Any]] | None = None,
    tokenizer: TokenizerRules | str | Mapping[str, Any] | None = None,
    backbone: str | None = None,
    round_to: torch.dtype | str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Merged:
    """Merge K parts of one kind into one.

    Parts are folders or files of checkpoints, folders of adapters, `Adapter`s, or mappings of
    names to tensors. A weight is a number, a gradient over the layers, or rules
    (`weft.merging.weights`); without `weights` the method's own are taken. `base` is what a
    checkpoint's task vector is measured from: a checkpoint, tensors, or several paths whose mean
    it is; adapters are task vectors as they are, and only tensors that they save whole have a
    base. For adapters that know their backbone by name alone, as PEFT's do, `base` is that
    backbone: modules are checked against it and its fingerprint is recorded. `space` and `rank` are
    for adapters, `shard_bytes` and `memory` (bytes) for checkpoints. `dtype` is that of the result:
    unless given, of a checkpoint each tensor's in the first part, of an adapter float32. `labels` name the parts; random masks depend on them. `union` allows
    adapters that have few modules in common. `options` are the method's options for single parts
    (`{"density": 0.3}`), said as weights are; a part that has none takes the method's. `tokenizer`
    (`base`, `union`, a part's name or path, `rows`, or these with rules for single tokens) says
    whose vocabulary a checkpoint gets, where those of the parts differ. `backbone` names the one
    model that all adapters belong to, whatever names they have for it. `round_to` (a dtype, or
    "stored": the base's own) rounds task vectors of checkpoints before they are ranked, as programs
    that compute in low precision do.

    With `out` the result is written to that new folder, whole or not at all, and nothing is
    returned; without, adapters give an `Adapter` and tensors in memory a dict of tensors.
    Raises `WeftError` for what can't be merged.
    """
    job = plan_merge(
        parts,
        method,
        weights,
        base=base,
        space=space,
        rank=rank,
        dtype=dtype,
        labels=labels,
        union=union,
        options=options,
        tokenizer=tokenizer,
        backbone=backbone,
        round_to=round_to,
    )
    return run_merge(
        job, out, shard_bytes=shard_bytes, threads=threads, memory=memory, progress=progress
    )


def plan_merge(
    parts: Sequence[Part],
    method: str | Mapping[str, Any] | Method = "linear",
    weights: Sequence[Any] | None = None,
    *,
    base: Base | None = None,
    space: Space = "delta",
    rank: int | None = None,
    dtype: torch.dtype | str | None = None,
    labels: Sequence[str | None] | None = None,
    union: bool = False,
    options: Sequence[Mapping[str, Any]] | None = None,
    tokenizer: TokenizerRules | str | Mapping[str, Any] | None = None,
    backbone: str | None = None,
    round_to: torch.dtype | str | None = None,
) -> Job:
    """Open everything, check it, and decide every weight; see `merge`."""
    chosen = make_method(method)
    check_listed(parts)
    count = len(parts)
    specs = chosen.default_weights(count) if weights is None else list(weights)
    opened = open_parts(
        parts,
        labels,
        union=union,
        backbone=backbone,
        unnamed=str(base) if isinstance(base, str | Path) else None,
        absent=absent_parts(chosen, specs) if len(specs) == count else (),
    )
    chosen.check(count)
    check_count(specs, count)
    rules = _rules(tokenizer)
    named = False
    if opened.kind == "adapters":
        if rules is not None and rules.source != ROWS:
            raise WeftError(
                "tokenizer is for checkpoints: fold each adapter into one (weft fold), or say that "
                "rows mean the same in all (rows)"
            )
        if round_to is not None:
            raise WeftError("round_to is for checkpoints: an adapter's ΔW is formed in float32")
        opened, named = _named_backbone(opened, base)
        if rules is None:
            check_adapter_rows(*opened.present)
    else:
        _check_full(chosen, base, space, rank)
        if union:
            raise WeftError("union is for adapters: checkpoints of one model have the same tensors")
        ready = bring_together(
            opened.sources,
            open_base(base),
            chosen,
            absent=[is_zero(spec) for spec in specs],
            tokenizer=rules,
            dtype=_dtype(dtype),
        )
        opened, origin = replace(opened, sources=ready.parts), ready.base
        if isinstance(ready.parts[0], Aligned):
            rules = ready.parts[0].output.rules  # which name models by their labels
    resolved = resolve_weights(specs, opened.names, opened.labels)
    own = None if options is None else part_options(chosen, options, opened.names, opened.labels)
    if opened.kind == "adapters":
        _check_adapters(opened, None if named else base, resolved)
        check_factor_dtype(_dtype(dtype))
        _check_together(opened, chosen, resolved, space, union)
        origin = open_base(base)
    else:
        whole = Merge(opened.sources, chosen, resolved, origin, own)
        check_fitting(whole, _dtype(dtype))
        check_options(whole)
    return Job(
        opened,
        chosen,
        tuple(weight_spec(spec) for spec in specs),
        resolved,
        origin,
        _paths(base),
        space,
        rank,
        _dtype(dtype),
        union,
        weights is None,
        tuple(options or ()),
        own,
        tuple(part if isinstance(part, Stack) else None for part in parts),
        rules,
        backbone,
        "stored" if round_to == "stored" else _dtype(round_to),
    )


def run_merge(
    job: Job,
    out: str | Path | None = None,
    *,
    shard_bytes: int = SHARDS,
    threads: int | None = None,
    memory: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Merged:
    """Compute what was planned; see `merge`."""
    if job.parts.kind == "adapters":
        return _merge_adapters(job, None if out is None else Path(out), threads)
    if out is not None:
        from weft.merging.folder import merge_checkpoints

        merge_checkpoints(
            job.parts.sources,
            Path(out),
            job.method,
            job.weights,
            base=job.base,
            options=job.own,
            round_to=job.round_to,
            dtype=job.dtype,
            shard_bytes=shard_bytes,
            threads=threads,
            memory=memory,
            recipe=job.recipe(Path(out), shard_bytes),
            tokenizer=job.tokenizer,
            progress=progress,
        )
        return None
    if job.parts.kind == "checkpoints":
        raise WeftError("merging checkpoints needs an out: a new folder")
    sources = job.parts.sources
    whole = Merge(sources, job.method, job.weights, job.base, job.own, job.round_to)
    return _in_memory(whole, job.dtype, threads)


def plan_recipe(recipe: MergeRecipe) -> Job:
    """A recipe's merge, opened and checked."""
    base = recipe.base
    return plan_merge(
        [part.path if part.slices is None else _stack(part.slices) for part in recipe.parts],
        recipe.method,
        recipe.weights,
        base=_stack(base.slices) if isinstance(base, StackSpec) else base,
        space=recipe.space or "delta",
        rank=recipe.rank,
        dtype=recipe.dtype,
        labels=[part.name for part in recipe.parts],
        union=recipe.union,
        options=recipe.options,
        tokenizer=recipe.tokenizer,
        backbone=recipe.backbone,
        round_to=recipe.round_to,
    )


def _stack(slices: Sequence[SliceSpec]) -> Stack:
    return Stack(tuple(Slice(locate(one.path), *one.layers) for one in slices))


def _merge_adapters(job: Job, out: Path | None, threads: int | None) -> Adapter | None:
    from weft.data.catalogue import FILE, load_catalogue
    from weft.merging.lora import merge_adapters
    from weft.recommenders.folder import save_recommender
    from weft.recommenders.item_counts import load_item_counts

    if out is not None:
        check_folder(out, new=True)  # before the work, not after it
    merged = merge_adapters(
        job.parts.adapters,
        job.method,
        job.weights,
        space=job.space,
        rank=job.rank,
        labels=job.parts.labels,
        threads=threads,
        base=job.base,
        union=job.union,
        options=job.own,
    )
    said = {**merged.manifest.get("merge", {}), "recipe": job.recipe(out)}
    merged = replace(merged, manifest={**merged.manifest, "merge": said})
    if out is None:
        return merged if job.dtype is None else rounded(merged, job.dtype)
    _, labels, paths = job.parts.present
    first = next((p for p in (job.parts.paths[0], paths[0]) if p and (p / FILE).is_file()), None)
    if first is not None:
        catalogue = load_catalogue(first)  # stays a recommender, for that catalogue
        counts = load_item_counts(first, catalogue)
        save_recommender(merged, catalogue, out, dtype=job.dtype, counts=counts)
    else:
        save_merged_adapter(merged, out, labels, paths, dtype=job.dtype)
    return None


def _in_memory(whole: Merge, dtype: torch.dtype | None, threads: int | None) -> dict[str, Tensor]:
    specs = {
        name: Spec(spec.shape, dtype) if dtype and spec.dtype.is_floating_point else spec
        for name, spec in whole.parts[0].specs.items()
    }
    sink = MemorySink(specs)
    stream(whole, sink, threads=threads)
    return sink.tensors


def absent_parts(method: Method, specs: Sequence[Any]) -> list[bool]:
    """Which parts have a weight of 0 for every tensor, where the method leaves such parts out."""
    zero = [is_zero(spec) for spec in specs]
    skips = getattr(method, "skips_zero", False) and not all(zero)
    return [skips and one for one in zero]


def _named_backbone(parts: Parts, base: Base | None) -> tuple[Parts, bool]:
    """Adapters as those of the backbone that the base names, and whether it is one: where some
    know theirs by its name alone, or none has another use for a base."""
    if parts.kind != "adapters" or not isinstance(base, str | Path):
        return parts, False
    used = any(one.saved or one.tokens for one in parts.adapters)
    if used and not any(map(lacks_fingerprint, parts.adapters)):
        return parts, False
    weights, folder = open_base(base), locate(base)
    assert weights is not None
    name = str(folder.resolve()) if Path(base).exists() else str(base)
    return replace(
        parts, adapters=state_backbone(parts.adapters, parts.labels, name, folder, weights)
    ), True


def _check_adapters(parts: Parts, base: Base | None, weights: Weights) -> None:
    """Each part that takes part must change something: an untrained one has B = 0 everywhere."""
    for row, one in enumerate(parts.adapters):
        if any(weights(name)[row] for name in parts.names) and one.changes_nothing():
            raise WeftError(
                f"{parts.labels[row]} changes nothing: its factors are zero, as before training"
            )
    if not any(any(weights(name)) for name in parts.names):
        raise WeftError("every weight is 0, so the merged adapter would change nothing")
    if base is not None and not any(one.saved or one.tokens for one in parts.adapters):
        raise WeftError(
            "base: adapters are differences already, and none of these saves tensors whole"
        )


def _check_together(
    parts: Parts, method: Method, weights: Weights, space: Space, union: bool
) -> None:
    from weft.merging.lora.merge import check_adapters

    check_adapters(parts.adapters, method, weights, space, parts.labels, union=union)


def _check_full(method: Method, base: Base | None, space: Space, rank: int | None) -> None:
    """What only adapters have, and what only they can do without."""
    if getattr(method, "adapters_only", False):
        raise WeftError(f"method '{method.name}' is for adapters")
    if space != "delta" or rank is not None:
        raise WeftError(f"{'rank' if rank is not None else 'space'} is for adapters")
    if method.needs_base and base is None:
        raise WeftError(f"method '{method.name}' needs a base: the checkpoint that was fine-tuned")


def _rules(
    tokenizer: TokenizerRules | str | Mapping[str, Any] | None,
) -> TokenizerRules | None:
    if tokenizer is None or isinstance(tokenizer, TokenizerRules):
        return tokenizer
    stated = {"source": tokenizer} if isinstance(tokenizer, str) else dict(tokenizer)
    return checked(TokenizerRules, stated)


def _paths(base: Base | None) -> str | MeanOf | Stack | None:
    if isinstance(base, str | Path):
        return str(locate(base))
    if isinstance(base, MeanOf | Stack):
        return base
    if isinstance(base, Sequence):
        return MeanOf(mean_of=tuple(str(path) for path in base))
    return None


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    found = getattr(torch, dtype, dtype) if isinstance(dtype, str) else dtype
    if found is None or (isinstance(found, torch.dtype) and found.is_floating_point):
        return found
    raise WeftError(f"dtype '{dtype}' is not known; say float32, float16 or bfloat16")
