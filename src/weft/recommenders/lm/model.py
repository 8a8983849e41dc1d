"""Log-likelihoods of many continuations of one prompt, in one pass.

The prompt goes through the model once and its keys and values are kept. The continuations' prefix
tree follows as one row, in which a token sees the prompt and its own ancestors, at the position
that it would have behind the prompt: what each would give alone, computed together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weft.data.domain import IntArray
from weft.errors import WeftError
from weft.recommenders.lm.attention import use_packed_attention
from weft.recommenders.lm.tree import PrefixTree, blocks

MOST_NODES = 4096  # of one pass, whatever memory there is


@dataclass(frozen=True, eq=False)
class LogLikelihood:
    """Of C continuations: `total` [C] float32 in nats, and `tokens` [C] int64 that it sums over."""

    total: NDArray[np.float32]
    tokens: NDArray[np.int64]


class LanguageModel:
    """A transformers causal language model (Llama, Qwen2, Qwen3 and their like).

    `memory` bounds, in bytes and roughly, what scoring one prompt may take beside the model and the
    prompt's keys and values. An architecture that can't be read exactly is a `WeftError`.
    """

    def __init__(self, model: Any, *, memory: int = 2 << 30) -> None:
        self.model = model
        self.memory = memory
        self.head: nn.Module | None = model.get_output_embeddings()
        config = model.config
        name = type(model).__name__
        if self.head is None:
            raise WeftError(f"{name} has no output head: it is no causal language model")
        if getattr(config, "final_logit_softcapping", None):
            raise WeftError(f"{name} caps its logits, which is not supported")
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        if kinds != {"full_attention"}:
            said = ", ".join(sorted(kinds - {"full_attention"}))
            raise WeftError(f"{name} has layers of another kind than full attention: {said}")
        self.window: int | None = getattr(config, "max_position_embeddings", None)
        use_packed_attention(model)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device  # type: ignore[no-any-return]

    # --- passes through the model

    def read(
        self, ids: IntArray, positions: IntArray | None = None, mask: Tensor | None = None,
        cache: Any = None, **extra: Any,
    ) -> Tensor:  # fmt: skip
        """[t, d] last hidden states of t ids; what is read is appended to the cache."""
        rows = torch.from_numpy(np.asarray(ids, dtype=np.int64)).to(self.device)[None]
        where = None
        if positions is not None:
            where = torch.from_numpy(np.asarray(positions, dtype=np.int64)).to(self.device)[None]
        out = self.model.base_model(
            input_ids=rows, position_ids=where, attention_mask=mask, past_key_values=cache,
            use_cache=cache is not None, **extra,
        )  # fmt: skip
        hidden: Tensor = out.last_hidden_state[0]
        return hidden

    def prompt(self, ids: IntArray) -> tuple[Any, Tensor]:
        """(a cache with the prompt's keys and values, the last token's hidden state [1, d])."""
        from transformers import DynamicCache

        if not len(ids):
            raise WeftError("a prompt needs at least one token")
        cache = DynamicCache(config=self.model.config)
        return cache, self.read(ids, cache=cache)[-1:]

    def nodes(self, tree: PrefixTree, cache: Any) -> Tensor:
        """[t, d] hidden states of a tree's nodes behind the cached prompt; the cache stays as it is."""
        before = cache.get_seq_length()
        mask = self._mask(tree.sees, before)
        hidden = self.read(tree.token, tree.depth + before, mask, cache)
        cache.crop(-len(tree))
        return hidden

    def _mask(self, sees: NDArray[np.bool_], before: int) -> Tensor:
        """[1, 1, t, before + t], added to the scores: 0 for what is seen, −inf for the rest."""
        mask = torch.zeros(len(sees), before + sees.shape[1], dtype=self._dtype)
        mask[:, before:].masked_fill_(~torch.from_numpy(sees), float("-inf"))
        return mask[None, None].to(self.device)

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype  # type: ignore[no-any-return]

    def logits(self, hidden: Tensor) -> Tensor:
        """[m, vocabulary] float32."""
        assert self.head is not None
        scores: Tensor = self.head(hidden)
        return scores.float()

    # --- scores

    @torch.inference_mode()
    def continuations(
        self, prompt: IntArray, candidates: Sequence[IntArray], end: int
    ) -> LogLikelihood:
        """log P(candidate's ids, then `end` | prompt) of each of C candidates."""
        total = np.empty(len(candidates), dtype=np.float32)

        def score(rows: NDArray[np.int64], tree: PrefixTree, last: Tensor, nodes: Tensor) -> None:
            states = torch.cat([last, nodes])  # row 0 is the prompt, row i + 1 node i
            edges = np.concatenate([tree.parent + 1, tree.leaf + 1])
            ids = np.concatenate([tree.token, np.full(len(rows), end)])
            found = self._log_probabilities(states, edges, ids)
            total[rows] = tree.sums(found[: len(tree)]) + found[len(tree) :]

        self._in_blocks(prompt, candidates, score)
        lengths = np.array([len(one) + 1 for one in candidates], dtype=np.int64)
        return LogLikelihood(total, lengths)

    @torch.inference_mode()
    def final_logits(
        self, prompt: IntArray, suffixes: Sequence[IntArray], tokens: Sequence[int]
    ) -> NDArray[np.float32]:
        """[C, n] float32: log P(token | prompt, suffix) of n tokens after each of C suffixes."""
        out = np.empty((len(suffixes), len(tokens)), dtype=np.float32)

        def score(rows: NDArray[np.int64], tree: PrefixTree, last: Tensor, nodes: Tensor) -> None:
            edges = np.repeat(tree.leaf, len(tokens))
            found = self._log_probabilities(nodes, edges, np.tile(tokens, len(rows)))
            out[rows] = found.reshape(len(rows), len(tokens))

        self._in_blocks(prompt, suffixes, score)
        return out

    def _in_blocks(
        self,
        prompt: IntArray,
        sequences: Sequence[IntArray],
        score: Callable[[NDArray[np.int64], PrefixTree, Tensor, Tensor], None],
    ) -> None:
        """Read the prompt once, then the sequences in as many trees as the memory bound asks for."""
        self.model.eval()
        self._check_window(len(prompt) + max((len(one) for one in sequences), default=0))
        cache, last = self.prompt(prompt)
        for rows in blocks(sequences, self._most_nodes(len(prompt))):
            tree = PrefixTree.of([sequences[row] for row in rows.tolist()])
            score(rows, tree, last, self.nodes(tree, cache))

    def _check_window(self, tokens: int) -> None:
        if self.window is not None and tokens > self.window:
            raise WeftError(
                f"a prompt and its longest title have {tokens} tokens, and the backbone's window "
                f"is {self.window}: lower recommender.prompt.max_tokens"
            )

    def _most_nodes(self, prompt: int) -> int:
        """Nodes of one pass so that scores, mask and activations stay within half the bound."""
        config, room = self.model.config, self.memory // 2
        width = 4 * (6 * config.hidden_size + 3 * config.intermediate_size)
        heads = 4 * (2 * config.num_attention_heads + 1)
        most = MOST_NODES
        while most > 1 and most * (width + heads * (prompt + most)) > room:
            most //= 2
        return most

    def _log_probabilities(
        self, states: Tensor, edges: NDArray[np.int64], ids: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """[m] float32: log P(ids[i] | the state in row edges[i]), in chunks of the states."""
        assert self.head is not None
        out = np.empty(len(edges), dtype=np.float32)
        vocabulary = int(self.model.config.vocab_size)
        rows = max(1, self.memory // 2 // (vocabulary * 8))
        for start in range(0, len(states), rows):
            there = np.flatnonzero((edges >= start) & (edges < start + rows))
            if not len(there):
                continue
            logits = self.logits(states[start : start + rows])
            sums = torch.logsumexp(logits, dim=-1)
            at = torch.from_numpy(edges[there] - start).to(logits.device)
            wanted = torch.from_numpy(ids[there]).to(logits.device)
            out[there] = (logits[at, wanted] - sums[at]).cpu().numpy()
        return out
