"""Which tensors have a row for every token."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from weft.merging.engine.source import Spec
from weft.merging.weights import layer_of

_EMBEDDING = re.compile(
    r"(?:^|\.)(?:embed_tokens|embed_tokens_per_layer|word_embeddings?|wte|tok_embeddings"
    r"|token_embedding|embed_in|shared)\.weight$"
    r"|^(?:backbone\.)?embeddings?\.weight$"
)
_HEAD = re.compile(
    r"(?:^|\.)(?:lm_head|embed_out|generator_lm_head|vocab_projector)(?:\.decoder)?\.(?:weight|bias)$"
    r"|(?:^|\.)predictions\.(?:bias|decoder\.weight|decoder\.bias)$"
    r"|^output\.weight$|(?:^|\.)final_logits_bias$"
)


def is_embedding(name: str) -> bool:
    """Whether a tensor is a model's input embedding, as its name says."""
    return _EMBEDDING.search(name) is not None


def is_head(name: str) -> bool:
    """Whether a tensor is (the weight or bias of) the layer that predicts tokens."""
    return _HEAD.search(name) is not None


def vocabulary_axis(name: str, spec: Spec) -> int | None:
    """The axis of a tensor that counts tokens, as its name says; None for other tensors."""
    if not spec.dtype.is_floating_point or not (is_embedding(name) or is_head(name)):
        return None
    return 1 if name.endswith("final_logits_bias") and len(spec.shape) == 2 else 0


def vocabulary_tensors(specs: Mapping[str, Spec]) -> dict[str, int]:
    """Tensor -> its axis of tokens; known by name, or, outside the layers, by its length, where no
    other kind of axis in the model has that length."""
    axes_of = {
        name: axis
        for name, spec in specs.items()
        if spec.shape and (axis := vocabulary_axis(name, spec)) is not None
    }
    lengths = {specs[name].shape[axis] for name, axis in axes_of.items()}
    widths = {size for name, axis in axes_of.items() for size in specs[name].shape[axis + 1 :]}
    inside = {size for name in specs if layer_of(name) for size in specs[name].shape}
    for name, spec in specs.items():
        if name in axes_of or layer_of(name) or not spec.dtype.is_floating_point:
            continue
        axes = [axis for axis, size in enumerate(spec.shape) if size in lengths - widths - inside]
        if len(axes) == 1 and math.prod(spec.shape[: axes[0]]) == 1:
            axes_of[name] = axes[0]
    return axes_of
