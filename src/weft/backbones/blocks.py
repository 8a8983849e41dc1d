"""The transformer blocks of a model: finding them, changing what they give, passing them by.

Blocks are changed in place by hooks, so that parameters keep their names. The same few lines serve
every architecture of transformers whose blocks take hidden states first and give them first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from weft.errors import MismatchError, SettingError, WeftError

After = Callable[[int, Tensor], Tensor]
"""(block from 0, hidden states [n, tokens, d]) -> what the next block gets."""
Before = Callable[[int, Tensor], None]


def find_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Name of the model's list of blocks, and the list; none is a `MismatchError`."""
    count = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return name, module
    raise MismatchError(
        f"{type(model).__name__} has no list of transformer blocks that weft can find"
    )


class _ReachedError(Exception):
    """Ends a forward pass at a block."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


class Blocks:
    """A model whose blocks can be watched, changed and passed by, for one forward pass at a time."""

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model
        self.name, self.list = find_blocks(model)
        self._after: After | None = None
        self._before: Before | None = None
        self._start: tuple[int, Tensor] | None = None
        self.batch = [0]  # texts of this pass
        for index, block in enumerate(self.list):
            block.forward = self._passing(index, block.forward)
            block.register_forward_hook(self._hook(index))

    def __len__(self) -> int:
        return len(self.list)

    def run(
        self,
        ids: Tensor,
        mask: Tensor,
        after: After | None = None,
        start: tuple[int, Tensor] | None = None,
        before: Before | None = None,
    ) -> Tensor:
        """The last hidden state [n, tokens, d] of ids and mask [n, tokens].

        `before` sees what each block gets; `after` is called with each block's hidden states, and its
        answer goes on. With `start` (b, states) the first b blocks are passed by and their output
        is `states`, so that block b gets it, or the model's final norm if there is no such block.
        """
        self._after, self._before, self._start = after, before, start
        self.batch[0] = len(ids)
        try:
            out: Tensor = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        finally:
            self._after = self._before = self._start = None
        return out

    def until(self, block: int, ids: Tensor, mask: Tensor, before: Before | None = None) -> Tensor:
        """What `block` gives [n, tokens, d], without gradients; the blocks above are not run."""

        def reached(index: int, hidden: Tensor) -> Tensor:
            if index == block:
                raise _ReachedError(hidden)
            return hidden

        with torch.no_grad():
            try:
                self.run(ids, mask, reached, before=before)
            except _ReachedError as end:
                return end.hidden
        raise SettingError(f"the model has no block {block}")

    @contextmanager
    def all_tokens(self) -> Iterator[None]:
        """Inside, `last_block_for_first_token` has no effect."""
        block: Any = self.list[-1]
        was = getattr(block, "first_token", False)
        block.first_token = False
        try:
            yield
        finally:
            block.first_token = was

    def _passing(self, index: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        """The block's forward, which passes by what lies below a start."""
        bare: list[bool] = []  # whether the block gives hidden states alone, once it is known

        def passing(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            if self._start is not None and index < self._start[0]:
                if not bare:  # asked once: architectures differ
                    with torch.no_grad():
                        bare.append(isinstance(forward(hidden, *args, **kwargs), Tensor))
                if index == self._start[0] - 1:
                    hidden = self._start[1]
                return hidden if bare[0] else (hidden, None)
            if self._before is not None:
                self._before(index, hidden)
            return forward(hidden, *args, **kwargs)

        return passing

    def _hook(self, index: int) -> Callable[..., Any]:
        def hook(block: nn.Module, args: Any, output: Any) -> Any:
            if self._after is None or (self._start is not None and index < self._start[0]):
                return None
            if isinstance(output, Tensor):
                return self._after(index, output)
            return (self._after(index, output[0]), *output[1:])

        return hook


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    """Scores with a mask that is added (eager attention) or true where tokens are seen (sdpa)."""
    if mask.dtype != torch.bool:
        return scores + mask
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min)


def last_block_for_first_token(model: nn.Module) -> bool:
    """Let the last block compute its first token alone, where it is of a kind that weft knows.

    The other tokens then give keys and values only, which is a sixth of a block's products. The model's
    last hidden state is [n, 1, d] from then on, the same numbers as before. Returns whether it was
    done; it is for encoders of BERT's and RoBERTa's kind.
    """
    try:
        block: Any = find_blocks(model)[1][-1]
    except WeftError:
        return False
    if type(block).__name__ not in ("BertLayer", "RobertaLayer", "XLMRobertaLayer"):
        return False

    whole = block.forward
    block.first_token = True

    def forward(hidden: Tensor, attention_mask: Tensor | None, *args: Any, **kwargs: Any) -> Tensor:
        if not block.first_token:
            return whole(hidden, attention_mask, *args, **kwargs)  # type: ignore[no-any-return]
        attention, project = block.attention.self, block.attention.output
        first = hidden[:, :1]
        q, k, v = (
            linear(x).unflatten(-1, (-1, attention.attention_head_size)).transpose(1, 2)
            for linear, x in (
                (attention.query, first),
                (attention.key, hidden),
                (attention.value, hidden),
            )
        )
        scores = (q @ k.transpose(2, 3)) * attention.scaling
        if attention_mask is not None:
            scores = _masked(scores, attention_mask[:, :, :1])
        read = (torch.softmax(scores, dim=-1) @ v).transpose(1, 2).flatten(2)
        state: Tensor = block.feed_forward_chunk(project(read, first))
        return state

    block.forward = forward
    return True


def longest_input(model: nn.Module) -> int | None:
    """Tokens that the model has positions for; None where positions are relative."""
    for name, module in model.named_modules():
        if name.rpartition(".")[2] == "position_embeddings" and isinstance(module, nn.Embedding):
            before = 0 if module.padding_idx is None else module.padding_idx + 1  # as in RoBERTa
            return module.num_embeddings - before
    return None
