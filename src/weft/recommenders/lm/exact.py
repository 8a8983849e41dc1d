"""Which architectures can be read exactly, by what their configuration says."""

from __future__ import annotations

from typing import Any

from weft.errors import WeftError


def check_config(model: Any) -> int | None:
    """The longest input in tokens that is plain causal attention; None: any.

    A `WeftError` for a model without an output head, of layers that are not attention over
    everything before, or with capped logits.
    """
    config, name = model.config, type(model).__name__
    if model.get_output_embeddings() is None:
        raise WeftError(f"{name} has no output head: it is no causal language model")
    if not getattr(model, "_supports_attention_backend", False):
        raise WeftError(f"{name} brings its own attention, which can't be replaced")
    for field in ("final_logit_softcapping", "attn_logit_softcapping"):
        if getattr(config, field, None):
            raise WeftError(f"{name} caps its logits, which is not supported")
    own = getattr(config, "max_position_embeddings", None)
    limits = [own, _sliding(config, name), *_rotary_limits(config)]
    return min((limit for limit in limits if limit is not None), default=None)


def _sliding(config: Any, name: str) -> int | None:
    """Tokens within which a sliding window is no window."""
    window: int | None = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:  # Mistral: one setting for all layers
        return window
    odd = set(kinds) - {"full_attention"}
    if not odd:
        return None
    if odd == {"sliding_attention"} and window is not None:
        return window
    said = ", ".join(sorted(odd))
    raise WeftError(f"{name} has layers of another kind than full attention: {said}")


def _rotary_limits(config: Any) -> list[int]:
    """Where rotary embeddings start to hang on the whole input's length."""
    said = getattr(config, "rope_parameters", None) or {}
    each = [one for one in said.values() if isinstance(one, dict)] or [said]
    return [
        int(one["original_max_position_embeddings"])
        for one in each
        if one.get("rope_type") == "longrope" and one.get("original_max_position_embeddings")
    ]
