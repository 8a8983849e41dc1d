"""One call for every static merge: adapters, checkpoints on disk, tensors in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

from weft.merging.limits import MergeLimits, ReportProgress
from weft.merging.plan import Merged, MergePlan, plan_recipe
from weft.merging.recipe import MergeRecipe, RecipeKeywords

if TYPE_CHECKING:
    from weft.merging.engine.method import Method
    from weft.merging.recipe import Base, Part


class MergeKeywords(RecipeKeywords, total=False):
    """What `merge` takes by name, beside parts, method, weights, base and out."""

    threads: int | None
    memory: int | None
    progress: ReportProgress | None


def merge(
    parts: Sequence[Part],
    method: str | Mapping[str, Any] | Method = "linear",
    weights: Sequence[Any] | None = None,
    *,
    base: Base | None = None,
    out: str | Path | None = None,
    **settings: Unpack[MergeKeywords],
) -> Merged:
    """Merge K parts of one kind into one: a recipe is planned and run.

    Parts are folders or files of checkpoints, folders of adapters, `Adapter`s, or mappings of
    names to tensors. A weight is a number, a gradient over the layers, or rules
    (`weft.merging.weights`); without `weights` the method's own are taken. `base` is what a
    checkpoint's task vector is measured from: a checkpoint, tensors, or several paths whose mean
    it is; adapters are task vectors as they are, and only tensors that they save whole have a
    base. For adapters that know their backbone by name alone, as PEFT's do, `base` is that
    backbone: modules are checked against it and its fingerprint is recorded.

    With `out` the result is written to that new folder, whole or not at all, and nothing is
    returned; without, adapters give an `Adapter` and tensors in memory a dict of tensors.

    The rest is stated by name:

    - `labels` name the parts; random masks depend on them.
    - `options` are the method's options for single parts (`{"density": 0.3}`), written as weights
      are; a part that has none takes the method's.
    - `dtype` is that of the result: by default, of a checkpoint each tensor's in the first part,
      of an adapter float32.
    - of adapters, `space` ("delta" or "factors") and `rank`; `union` allows adapters that have few
      modules in common; `backbone` names the one model that all belong to, whatever names they
      have for it.
    - of checkpoints, `tokenizer` (`base`, `union`, a part's name or path, `rows`, or these with
      rules for single tokens) says whose vocabulary the result gets, where those of the parts
      differ; `round_to` (a dtype, or "stored": the base's own) rounds task vectors before they are
      ranked, as programs that compute in low precision do; `shard_bytes` bounds a file, and
      `memory` (bytes) what is held at a time.
    - `threads` compute; `progress` is called with a `MergeProgress` now and then.

    Raises `WeftError` for what can't be merged.

    >>> import torch
    >>> books = {"layer.weight": torch.tensor([1.0, 0.0])}
    >>> toys = {"layer.weight": torch.tensor([0.0, 4.0])}
    >>> merge([books, toys], weights=[0.5, 0.25])
    {'layer.weight': tensor([0.5000, 1.0000])}
    >>> merge([books, toys], "ties", base={"layer.weight": torch.zeros(2)}, dtype="bfloat16")
    {'layer.weight': tensor([1., 4.], dtype=torch.bfloat16)}
    """
    more: dict[str, Any] = dict(settings)
    limits = MergeLimits(threads=more.pop("threads", None), memory=more.pop("memory", None))
    progress = more.pop("progress", None)
    plan = plan_merge(parts, method, weights, base=base, **cast(RecipeKeywords, more))
    return plan.run(out, limits, progress)


def plan_merge(
    parts: Sequence[Part],
    method: str | Mapping[str, Any] | Method = "linear",
    weights: Sequence[Any] | None = None,
    *,
    base: Base | None = None,
    **settings: Unpack[RecipeKeywords],
) -> MergePlan:
    """What `merge` would do with these arguments: everything opened, checked and decided.

    >>> import torch
    >>> plan = plan_merge([{"x": torch.zeros(2)}, {"x": torch.ones(2)}], weights=[1, 0.5])
    >>> plan.weights("x"), plan.run()
    ([1.0, 0.5], {'x': tensor([0.5000, 0.5000])})
    """
    return plan_recipe(MergeRecipe.of(parts, method, weights, base=base, **settings))
