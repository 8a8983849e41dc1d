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


@dataclass(frozen=True, eq=False)
class Blocks:
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
    """A transformers causal language model as something to train on blocks.

    With `mixed`, products are in bfloat16 and weights and sums in float32.
    """

    def __init__(self, model: Any, *, mixed: bool) -> None:
        self.model: nn.Module = model
        self.mixed = mixed

    def loss(self, batch: Blocks) -> Tensor:
        """Mean cross entropy (nats) of every token but a block's first."""
        device = next(self.model.parameters()).device
        ids = torch.from_numpy(batch.ids.astype(np.int64)).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.mixed):
            logits = self.model(input_ids=ids, use_cache=False).logits[:, :-1]
        return nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())

    def lengths(self, examples: Blocks) -> NDArray[np.int64]:
        return np.full(len(examples), examples.ids.shape[1], dtype=np.int64)

    def perplexity(self, blocks: Blocks, batch: int = 8) -> float:
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
