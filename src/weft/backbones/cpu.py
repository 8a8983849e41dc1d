"""What makes transformers' models faster on the CPU without changing what they compute."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import torch
from torch import Tensor, nn

ATTENTION = "weft_short"
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Let glibc keep freed activations for the next step; elsewhere nothing.

    By default it hands every large block back to the system, and the next step pays for each of
    its pages anew: a tenth to a fifth of a training step on MiniLM.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def short_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """softmax(scaling · q kᵀ + mask) v, for inputs of tens to hundreds of tokens.

    Query, key and value are [n, heads, tokens, width], the mask is additive and broadcasts to
    [n, heads, tokens, tokens]; gives [n, tokens, heads, width]. Scale and mask are part of the
    first product, which saves two passes over the scores. What it does not know (dropout, shared
    heads, biases) goes to transformers' own function.
    """
    special = ("position_bias", "softcap", "s_aux", "cache")
    if dropout or query.shape != key.shape or any(kwargs.get(n) is not None for n in special):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        out, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return out, None
    n, heads, tokens, width = query.shape
    scaling = width**-0.5 if scaling is None else scaling
    q, k, v = (x.reshape(n * heads, tokens, -1) for x in (query, key, value))
    if attention_mask is None:
        scores = torch.bmm(q, k.transpose(1, 2)) * scaling
    else:
        mask = attention_mask.expand(n, heads, tokens, tokens).reshape(-1, tokens, tokens)
        scores = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=scaling)
    out = torch.bmm(torch.softmax(scores, dim=-1), v)
    return out.view(n, heads, tokens, -1).transpose(1, 2).contiguous(), None


def use_short_attention(model: Any) -> None:
    """Register `short_attention` and let the model use it, if its class takes registered ones."""
    if not getattr(model, "_supports_attention_backend", False):
        return
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(ATTENTION, short_attention)
    AttentionMaskInterface.register(ATTENTION, eager_mask)
    model.set_attn_implementation(ATTENTION)
