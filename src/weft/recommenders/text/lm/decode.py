"""Letting a language model write: freely and greedily, or only what is a candidate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weft.data.domain import IntArray
from weft.recommenders.text.lm.attention import Behind
from weft.recommenders.text.lm.model import LanguageModel
from weft.recommenders.text.lm.tree import PrefixTree

TOKENS_AT_ONCE = 8192  # of the prompts of one call to `generate`


@torch.inference_mode()
def greedy(
    language: LanguageModel, prompts: Sequence[IntArray], end: int, most: int, pad: int | None
) -> list[NDArray[np.int64]]:
    """What the model writes after each prompt, without `end`: at most `most` tokens, and no more
    than the window holds.

    Batches are padded on the left; attention and `generate` are transformers' own.
    """
    model = language.model
    model.eval()
    longest = max((len(one) for one in prompts), default=1)
    size = max(1, TOKENS_AT_ONCE // longest)
    language.check_window(longest + 1, "a prompt and the first token of its answer")
    out: list[NDArray[np.int64]] = []
    for start in range(0, len(prompts), size):
        part = prompts[start : start + size]
        rooms = [min(most, (language.window or most + len(one)) - len(one)) for one in part]
        ids, mask = _left_padded(part, end if pad is None else pad)
        written = model.generate(
            input_ids=ids.to(language.device),
            attention_mask=mask.to(language.device),
            max_new_tokens=max(rooms),
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            repetition_penalty=1.0,  # what a backbone's own settings ask for is not greedy
            no_repeat_ngram_size=0,
            eos_token_id=end,
            pad_token_id=end if pad is None else pad,
        )[:, ids.shape[1] :]
        for row, room in zip(written.cpu().numpy(), rooms, strict=True):
            stop = np.flatnonzero(row == end)
            out.append(row[: min(stop[0] if len(stop) else len(row), room)])
    return out


def _left_padded(prompts: Sequence[IntArray], pad: int) -> tuple[Tensor, Tensor]:
    width = max(len(one) for one in prompts)
    ids = torch.full((len(prompts), width), pad, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, one in enumerate(prompts):
        ids[row, width - len(one) :] = torch.from_numpy(np.asarray(one, dtype=np.int64))
        mask[row, width - len(one) :] = 1
    return ids, mask


@torch.inference_mode()
def constrained_beam(
    language: LanguageModel, prompt: IntArray, titles: Sequence[IntArray], end: int, width: int
) -> NDArray[np.float32]:
    """[C] float32: log P(title, `end` | prompt) of the `width` best that a beam finds, else −inf.

    The beam walks down the titles' prefix tree, so it can name nothing but a title. What it keeps
    is read behind the prompt's cache as in the exact ranker; with `width` ≥ C it is that ranker.
    """
    language.model.eval()
    tree = PrefixTree.of(titles)
    before = len(prompt)
    language.check_window(before + tree.path.shape[1], "a prompt and its longest title")
    cache, states = language.prompt(prompt)
    at, scores = np.array([-1]), np.zeros(1)
    sees = np.zeros((1, 0), dtype=bool)  # [len(at), read so far]: nodes in the cache, in its order
    ends = set(tree.leaf.tolist())
    done: dict[int, float] = {}
    while len(at):
        logits = language.logits(states)
        known = (logits - torch.logsumexp(logits, dim=-1, keepdim=True)).double().cpu().numpy()
        for row, node in enumerate(at.tolist()):
            if node in ends:
                done[node] = float(scores[row] + known[row, end])
        grown = [tree.children.get(node, np.empty(0, dtype=np.int64)) for node in at.tolist()]
        nodes = np.concatenate(grown)
        of = np.repeat(np.arange(len(at)), [len(one) for one in grown])
        reached = scores[of] + known[of, tree.token[nodes]]
        survivors = np.argsort(-reached, kind="stable")[:width]
        if len(done) >= width:  # what is longer is never likelier
            survivors = survivors[reached[survivors] > sorted(done.values())[-width]]
        at, scores = nodes[survivors], reached[survivors]
        if len(at):
            count = len(at)
            sees = np.concatenate([sees[of[survivors]], np.eye(count, dtype=bool)], axis=1)
            span = language.span(0, count, None, sees)
            layout = Behind(before, held=False, spans=[span])
            states = language.read(tree.token[at], tree.depth[at] + before, layout, cache)
    best = dict(sorted(done.items(), key=lambda one: -one[1])[:width])
    scored = [best.get(node, -np.inf) for node in tree.leaf.tolist()]
    return np.array(scored, dtype=np.float32)
