"""Training on packed prompts: one row without padding, in which no example sees another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from weft.data.domain import IntArray
from weft.recommenders.text.lm.model import LanguageModel


def packed_loss(language: LanguageModel, rows: Sequence[IntArray], starts: Sequence[int]) -> Tensor:
    """Mean cross entropy (nats) of all answers' tokens: of each row from its `starts` on.

    Equal to the examples read one by one, with losses weighted by their answers' tokens. Only
    states that predict an answer's token go through the output head.
    """
    lengths = [len(row) for row in rows]
    hidden = language.packed(rows)
    ends = np.cumsum(lengths)
    asked = np.concatenate(
        [np.arange(end - n + s, end) for end, n, s in zip(ends, lengths, starts, strict=True)]
    )
    ids = torch.from_numpy(np.concatenate(rows).astype(np.int64)[asked]).to(hidden.device)
    before = torch.from_numpy(asked - 1).to(hidden.device)
    return nn.functional.cross_entropy(language.logits(hidden[before]), ids)


def next_logits(language: LanguageModel, rows: Sequence[IntArray]) -> Tensor:
    """[n, vocabulary] float32 logits of the token after each of n packed rows, with gradients."""
    lengths = [len(row) for row in rows]
    hidden = language.packed(rows)
    last = torch.from_numpy(np.cumsum(lengths) - 1).to(hidden.device)
    return language.logits(hidden[last])
