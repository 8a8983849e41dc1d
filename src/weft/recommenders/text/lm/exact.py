"""Which architectures can be read exactly, by their configuration."""

from __future__ import annotations

from typing import Any

from weft.errors import MismatchError


def check_config(model: Any) -> int | None:
    """The longest input in tokens that is plain causal attention; None: any.

    Raises a `MismatchError` for a model without an output head, of layers that are not attention over
    everything before, or with capped logits.
    """
    config, name = model.config, type(model).__name__
    if model.get_output_embeddings() is None:
        raise MismatchError(f"{name} has no output head: it is no causal language model")
    if not getattr(model, "_supports_attention_backend", False):
        raise MismatchError(f"{name} brings its own attention, which can't be replaced")
    for field in ("final_logit_softcapping", "attn_logit_softcapping"):
        if getattr(config, field, None):
            raise MismatchError(f"{name} caps its logits, which is not supported")
    positions = getattr(config, "max_position_embeddings", None)
    limits = [positions, _sliding(config, name), *_rotary_limits(config)]
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
    others = ", ".join(sorted(odd))
    raise MismatchError(f"{name} has layers of another kind than full attention: {others}")


def _rotary_limits(config: Any) -> list[int]:
    """Where rotary embeddings start to hang on the whole input's length."""
    parameters = getattr(config, "rope_parameters", None) or {}
    each = [one for one in parameters.values() if isinstance(one, dict)] or [parameters]
    return [
        int(one["original_max_position_embeddings"])
        for one in each
        if one.get("rope_type") == "longrope" and one.get("original_max_position_embeddings")
    ]
