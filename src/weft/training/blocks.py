"""Learning to predict the next token of text that is cut into blocks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weft.artifacts.hashing import hash_arrays
from weft.recommenders.text.lm import LanguageModel


@dataclass(frozen=True, eq=False)
class TextBlocks:
    """[n, length] int32 token ids: a part for the training loop."""

    ids: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def hash(self) -> str:
        return hash_arrays({"ids": self.ids})

    def take(self, rows: NDArray[np.int64]) -> Self:
        return type(self)(self.ids[rows])


class NextToken:
    """A causal language model as something to train on blocks, each read by itself.

    With `mixed`, products are in bfloat16 and weights and sums in float32.
    """

    checkpoints_gradients = True

    def __init__(self, model: Any, *, mixed: bool) -> None:
        self.model: nn.Module = model
        self.language = LanguageModel(model)
        self.mixed = mixed

    def loss(self, batch: TextBlocks) -> Tensor:
        """Mean cross entropy (nats) of every token but a block's first."""
        device = self.language.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.mixed):
            hidden = self.language.packed(list(batch.ids))
            states = hidden.view(*batch.ids.shape, -1)[:, :-1]
            logits = self.language.logits(states)
        wanted = torch.from_numpy(batch.ids[:, 1:].astype(np.int64)).to(device)
        return nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())

    def lengths(self, examples: TextBlocks) -> NDArray[np.int64]:
        return np.full(len(examples), examples.ids.shape[1], dtype=np.int64)

    def perplexity(self, blocks: TextBlocks, batch: int = 8) -> float:
        """exp of the mean cross entropy over the blocks' tokens."""
        if not len(blocks):
            return float("nan")
        self.model.eval()
        total = 0.0
        with torch.inference_mode():
            for start in range(0, len(blocks), batch):
                part = blocks.take(np.arange(start, min(start + batch, len(blocks))))
                total += float(self.loss(part)) * len(part)
        return float(np.exp(total / len(blocks)))
