"""Whether models can be merged at all: checked before any work, in the words of a model's user."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from weft.errors import MismatchError, SettingError
from weft.merging.checkpoints.quantised import check_plain
from weft.merging.checkpoints.source_files import checkpoint_of
from weft.merging.checkpoints.views import Absent
from weft.merging.engine.source import TensorSource
from weft.merging.engine.stream import Merge, check_alike, measured
from weft.merging.vocabulary.align import Aligned
from weft.merging.vocabulary.tensors import is_embedding, is_head
from weft.merging.vocabulary.tokens import has_vocabulary


def check_fitting(merge: Merge, dtype: torch.dtype | None = None) -> None:
    """A `WeftError` for parts (and a base) that can't be merged by this method and weights.

    `dtype` is that of the result, where one is asked for.
    """
    merge.method.check(len(merge.parts))
    if merge.method.needs_base and merge.base is None:
        raise SettingError(f"{merge.method.name} of checkpoints needs a base (base)")
    sources = [*merge.parts, *([] if merge.base is None else [merge.base])]
    for source in sources:
        check_plain(source, dtype)
    for other in sources[1:]:
        _check_vocabularies(sources[0], other)
        _check_heads(sources[0], other)
    check_alike(merge.parts, merge.base)
    for name, spec in merge.parts[0].specs.items():
        if measured(spec):
            _check_weights(name, merge.weights(name), len(merge.parts))


def _check_vocabularies(one: TensorSource, other: TensorSource) -> None:
    for name, spec in one.specs.items():
        other_spec = other.specs.get(name)
        tokens = is_embedding(name) or is_head(name)
        if other_spec is not None and tokens and spec.shape[:1] != other_spec.shape[:1]:
            raise MismatchError(
                f"{one.label} and {other.label} have vocabularies of different size: tensor "
                f"'{name}' has the shapes {list(spec.shape)} and {list(other_spec.shape)}"
                f"{_remedy(one, other)}"
            )
    sizes = [_vocab_size(source) for source in (one, other)]
    if None not in sizes and sizes[0] != sizes[1]:
        raise MismatchError(
            f"{one.label} and {other.label} have vocabularies of different size: "
            f"vocab_size is {sizes[0]} and {sizes[1]}{_remedy(one, other)}"
        )


def _vocab_size(source: TensorSource) -> int | None:
    """As the model's configuration says; none where rows were aligned or are never read."""
    if isinstance(source, Absent | Aligned):
        return None
    checkpoint = checkpoint_of(source)
    return None if checkpoint is None else checkpoint.vocab_size


def _remedy(one: TensorSource, other: TensorSource) -> str:
    """What helps where both have tokenizers."""
    homes = [None if (c := checkpoint_of(s)) is None else c.home for s in (one, other)]
    if all(home is not None and has_vocabulary(home) for home in homes):
        return "; align rows by token (--tokenizer base or union)"
    return ""


def _check_heads(one: TensorSource, other: TensorSource) -> None:
    """An output layer of its own in one, tied to the embedding in the other."""
    for with_head, without in ((one, other), (other, one)):
        for name in with_head.specs:
            if not name.endswith("lm_head.weight") or name in without.specs:
                continue
            if any(is_embedding(lacking) for lacking in without.specs):
                raise MismatchError(
                    f"tensor '{name}' is in {with_head.label}, but {without.label} ties it to "
                    "the embedding"
                )


def _check_weights(name: str, weights: Sequence[float], parts: int) -> None:
    if len(weights) != parts:
        raise SettingError(f"tensor '{name}' has {len(weights)} weights for {parts} parts")
    if not all(math.isfinite(weight) for weight in weights):
        raise SettingError(f"tensor '{name}' has weights that are not finite: {list(weights)}")
