"""Attention of rows that hold several texts: packed examples, or a prompt and a tree behind it.

transformers' models call one function for attention and hand it what their caller passes along.
Here that is a layout: which token attends to which; no [tokens, tokens] mask is ever built. A call
without a layout gets transformers' own attention and masks, so the model serves others unchanged.

On the CPU everything is plain products over 128 queries at a time: what a triangle or a tree hides
is mostly skipped, and heads that share a key stand under each other, so no key is copied. Both are
faster there than torch's fused kernel, forward and above all backward. Elsewhere texts stand under
each other for the attention alone, padded to the longest, so that all take one fused kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend as Kernel
from torch.nn.attention import sdpa_kernel

from weft.errors import MismatchError, SettingError

ATTENTION = "weft_causal"
LAYOUT = "weft_layout"
AT_ONCE = 128  # queries; fewer make small products, more compute what is hidden
# Not cuDNN's: it compiles a plan for every new shape, and here nearly every shape is new.
KERNELS = [Kernel.FLASH_ATTENTION, Kernel.EFFICIENT_ATTENTION, Kernel.MATH]


@dataclass(frozen=True, eq=False)
class Packed:
    """Texts of these lengths one after the other, each causal and alone."""

    lengths: Sequence[int]


@dataclass(frozen=True, eq=False)
class Span:
    """Nodes [start, end) of a row see the prompt and, as `ahead` has it, `above` and each other.

    `above` [m] are the nodes before `start` that any of them sees, None: all. `ahead`
    [end − start, m + end − start] is added to the scores: 0 for what is seen, −inf else.
    """

    start: int
    end: int
    above: Tensor | None
    ahead: Tensor


@dataclass(frozen=True, eq=False)
class Behind:
    """Nodes behind a prompt of `prompt` tokens, which the row itself holds, or else the cache."""

    prompt: int
    held: bool
    spans: Sequence[Span]


@dataclass(frozen=True, eq=False)
class Several:
    """Texts of `prompts` tokens each, causal and alone, then a tree of `nodes` behind each of them.

    `ahead` [n, 1, widest tree, longest prompt + widest tree] is added to the scores of the nodes.
    """

    prompts: Sequence[int]
    nodes: Sequence[int]
    ahead: Tensor


Layout = Packed | Behind | Several


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    weft_layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """softmax(scaling · q kᵀ) v, each token over what its layout lets it see.

    Query is [1, heads, tokens, width], key and value [1, kv_heads, keys, width] with heads a
    multiple of kv_heads. Gives [1, tokens, heads, width]. What a model adds to the formula
    (dropout, soft caps, sinks) is a `WeftError`.
    """
    if weft_layout is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        with sdpa_kernel(KERNELS):
            out, _ = sdpa_attention_forward(
                module, query, key, value, attention_mask, dropout, scaling, **kwargs
            )
        return out, None
    for name in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise MismatchError(f"the backbone's attention has '{name}', which is not supported")
    if dropout:
        raise SettingError("attention dropout is not supported: set attention_dropout to 0")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (x[0].to(value.dtype) for x in (query, key, value))  # rotations may leave float32
    with torch.autocast(q.device.type, enabled=False):
        match weft_layout:
            case Packed():
                out = _packed(q, k, v, scale, weft_layout.lengths)
            case Behind():
                out = _behind(q, k, v, scale, weft_layout)
            case Several():
                out = _several(q, k, v, scale, weft_layout)
    return out.transpose(0, 1)[None].contiguous(), None


def _packed(q: Tensor, k: Tensor, v: Tensor, scale: float, lengths: Sequence[int]) -> Tensor:
    if q.device.type != "cpu":
        return _stacked(q, k, v, scale, lengths)
    split = [torch.split(x, list(lengths), dim=1) for x in (q, k, v)]
    texts = zip(split[0], split[1], split[2], strict=True)
    return torch.cat([_causal(*text, scale) for text in texts], dim=1)


@dataclass(frozen=True, eq=False)
class _Stack:
    """Texts of one row under each other, with padding behind every text, and back."""

    texts: int
    longest: int
    place: Tensor | None  # [texts · longest] tokens of the row; none: all are equally long
    back: Tensor  # [tokens]

    def spread(self, x: Tensor) -> Tensor:
        """[heads, tokens, width] -> [texts, heads, longest, width]; padding repeats any token."""
        whole = x if self.place is None else x.index_select(1, self.place)
        return whole.view(len(x), self.texts, self.longest, -1).transpose(0, 1)

    def gather(self, x: Tensor) -> Tensor:
        """[texts, heads, longest, width] -> [heads, tokens, width]."""
        flat = x.transpose(0, 1).reshape(x.shape[1], -1, x.shape[3])
        return flat if self.place is None else flat.index_select(1, self.back)


@lru_cache(maxsize=8)  # every layer asks for the same
def _stack(lengths: tuple[int, ...], device: torch.device) -> _Stack:
    sizes, longest = np.asarray(lengths, dtype=np.int64), max(lengths)
    there = np.arange(longest) < sizes[:, None]  # [texts, longest]
    taken = np.where(there, np.cumsum(there).reshape(there.shape) - 1, 0).ravel()
    with torch.inference_mode(False):  # what is kept may be asked for in training next
        place = None if there.all() else torch.from_numpy(taken).to(device)
        back = torch.from_numpy(np.flatnonzero(there)).to(device)
    return _Stack(len(lengths), longest, place, back)


def _stacked(q: Tensor, k: Tensor, v: Tensor, scale: float, lengths: Sequence[int]) -> Tensor:
    """`_packed` by one call. Nothing that counts sees what stands behind it: no mask."""
    stack = _stack(tuple(lengths), q.device)
    return stack.gather(_fused(stack.spread(q), stack.spread(k), stack.spread(v), scale))


def _several(q: Tensor, k: Tensor, v: Tensor, scale: float, layout: Several) -> Tensor:
    """Of a row of prompts and of the nodes behind them, in two calls; only for inference."""
    split = sum(layout.prompts)
    first, second = slice(0, split), slice(split, None)
    prompts = _stack(tuple(layout.prompts), q.device)
    nodes = _stack(tuple(layout.nodes), q.device)
    alone = _packed(q[:, first], k[:, first], v[:, first], scale, layout.prompts)
    keys, values = (
        torch.cat([prompts.spread(x[:, first]), nodes.spread(x[:, second])], dim=2) for x in (k, v)
    )
    behind = _fused(nodes.spread(q[:, second]), keys, values, scale, layout.ahead)
    return torch.cat([alone, nodes.gather(behind)], dim=1)


def _causal(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """[heads, n, width] of one text."""
    if q.device.type == "cpu":
        out: Tensor = _Causal.apply(q, k, v, scale)  # type: ignore[no-untyped-call]
        return out
    return _fused(q[None], k[None], v[None], scale)[0]


def _fused(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None = None) -> Tensor:
    """torch's own kernels, [n, heads, tokens, width]; causal without a mask."""
    with sdpa_kernel(KERNELS):
        return nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )  # fmt: skip


def _behind(q: Tensor, k: Tensor, v: Tensor, scale: float, layout: Behind) -> Tensor:
    """Of a row of nodes, or of a prompt and its nodes; only for inference."""
    width, prompt = q.shape[2], layout.prompt
    shared = len(q) // len(k)
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    skip = prompt if layout.held else 0
    if skip:
        out[:, :skip] = _causal(q[:, :skip], k[:, :skip], v[:, :skip], scale)
    before = k.shape[1] - q.shape[1] + skip  # keys of the prompt and of nodes read earlier
    for span in layout.spans:
        here, count = slice(skip + span.start, skip + span.end), span.end - span.start
        span_keys = slice(before + span.start, before + span.end)
        keys, values = (_seen(x, prompt, span.above, span_keys) for x in (k, v))
        rows = q[:, here].reshape(len(k), shared * count, width)
        scores = _scores(rows, keys, scale)
        scores.view(len(q), count, -1)[..., prompt:] += span.ahead
        attended = torch.bmm(torch.softmax(scores, dim=-1), values)
        out[:, here] = attended.view(len(q), count, width)
    return out


def _seen(x: Tensor, prompt: int, above: Tensor | None, span_keys: slice) -> Tensor:
    """The keys or values that a span sees; copied only if something stands between."""
    if above is None:
        return x[:, : span_keys.stop]
    return torch.cat([x[:, :prompt], x[:, prompt:].index_select(1, above), x[:, span_keys]], dim=1)


def _scores(rows: Tensor, keys: Tensor, scale: float) -> Tensor:
    """scale · rows keysᵀ; as one product, since a pass over the scores costs as much as it."""
    none = rows.new_empty(()).expand(len(rows), rows.shape[1], keys.shape[1])
    return torch.baddbmm(none, rows, keys.transpose(1, 2), beta=0, alpha=scale)


class _Causal(torch.autograd.Function):
    """One text, `AT_ONCE` queries at a time; saved are the weights left of the diagonal.

    q [heads, n, width], k and v [kv_heads, n, width] -> [heads, n, width].
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        heads, n, width = q.shape
        groups, shared = len(k), len(q) // len(k)
        ahead = q.new_full((min(n, AT_ONCE),) * 2, float("-inf")).triu_(1)
        out, saved, needed = q.new_empty(heads, n, width), [], any(ctx.needs_input_grad)
        for start in range(0, n, AT_ONCE):
            end = min(n, start + AT_ONCE)
            count = end - start
            rows = q[:, start:end].reshape(groups, shared * count, width)
            scores = _scores(rows, k[:, :end], scale)
            scores.view(heads, count, end)[..., start:] += ahead[:count, :count]
            weights = torch.softmax(scores, dim=-1)
            out[:, start:end] = torch.bmm(weights, v[:, :end]).view(heads, count, width)
            if needed:
                saved.append(weights)
        ctx.scale = scale
        ctx.save_for_backward(q, k, v, *saved)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *saved = ctx.saved_tensors
        (heads, n, width), groups, grad = q.shape, len(k), grads[0]
        grad_q = q.new_empty(heads, n, width)
        grad_k, grad_v = (x.new_zeros(groups, n, width) for x in (k, v))
        for start, weights in zip(range(0, n, AT_ONCE), saved, strict=True):
            end = min(n, start + AT_ONCE)
            rows = q[:, start:end].reshape(groups, -1, width)
            one = grad[:, start:end].reshape(groups, -1, width)
            grad_v[:, :end].baddbmm_(weights.transpose(1, 2), one)
            of_weights = torch.bmm(one, v[:, :end].transpose(1, 2))
            of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, q.dtype)
            of_scores.mul_(ctx.scale)
            grad_q[:, start:end] = torch.bmm(of_scores, k[:, :end]).view(heads, -1, width)
            grad_k[:, :end].baddbmm_(of_scores.transpose(1, 2), rows)
        return grad_q, grad_k, grad_v, None


def use_attention(model: Any) -> None:
    """Register `attention` with transformers and let the model use it."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)  # of calls without a layout
    model.set_attn_implementation(ATTENTION)
