"""Causal attention over examples that stand one after the other in a single row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

ATTENTION = "weft_packed"


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    weft_lengths: list[int] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """softmax(scaling · q kᵀ) v of each example alone, each token on itself and those before it.

    Query is [1, heads, tokens, width], key and value [1, kv_heads, tokens, width] with heads a
    multiple of kv_heads; `weft_lengths` are the examples' lengths. Gives [1, tokens, heads,
    width]. Without `weft_lengths` it is transformers' own function.
    """
    if weft_lengths is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        out, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return out, None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    one = _example_on_cpu if query.device.type == "cpu" else _example
    parts = [
        one(q, k, v, scale)
        for q, k, v in zip(
            torch.split(query[0], weft_lengths, dim=1),
            torch.split(key[0], weft_lengths, dim=1),
            torch.split(value[0], weft_lengths, dim=1),
            strict=True,
        )
    ]
    return torch.cat(parts, dim=1).transpose(0, 1)[None].contiguous(), None


def _example(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """[heads, n, width] of one example."""
    return nn.functional.scaled_dot_product_attention(
        q[None], k[None], v[None], is_causal=True, scale=scale, enable_gqa=len(q) != len(k)
    )[0]


def _example_on_cpu(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """The same by plain products: sdpa's backward pass takes longer there. Heads that share a key
    stand under each other, so no key is copied."""
    heads, n, width = q.shape
    shared = heads // len(k)
    rows = q.reshape(len(k), shared * n, width)
    ahead = torch.full((n, n), float("-inf"), dtype=q.dtype).triu(1).repeat(shared, 1)
    scores = torch.baddbmm(ahead.expand(len(k), -1, -1), rows, k.transpose(1, 2), alpha=scale)
    return torch.bmm(torch.softmax(scores, dim=-1), v).view(heads, n, width)


def use_packed_attention(model: Any) -> None:
    """Register `packed_attention` with transformers and let the model use it."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, packed_attention)
    model.set_attn_implementation(ATTENTION)
