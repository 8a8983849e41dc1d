"""Log-likelihoods of many continuations of one prompt, in one pass.

The prompt goes through the model once and its keys and values are cached. The continuations' prefix
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
from weft.errors import DataError, MismatchError, SettingError
from weft.recommenders.text.lm.attention import (
    AT_ONCE,
    LAYOUT,
    Behind,
    Layout,
    Packed,
    Several,
    Span,
    use_attention,
)
from weft.recommenders.text.lm.exact import check_config
from weft.recommenders.text.lm.tree import PrefixTree, blocks

MOST_NODES = 4096  # of one pass, whatever memory there is


@dataclass(frozen=True, eq=False)
class LogLikelihood:
    """Of C continuations: `total` [C] float32 in nats, and `tokens` [C] int64 that it sums over."""

    total: NDArray[np.float32]
    tokens: NDArray[np.int64]


class LanguageModel:
    """A transformers causal language model (Llama, Qwen2, Qwen3 and their like).

    `memory` bounds, in bytes and roughly, what scoring one prompt may take beside the model and the
    prompt's keys and values. `window` is the longest input, in tokens, that is read exactly. An
    architecture that can't be is a `WeftError`: a few tokens are read both ways to make sure.
    """

    def __init__(self, model: Any, *, memory: int = 2 << 30) -> None:
        self.model = model
        self.memory = memory
        self.window = check_config(model)
        self.head: nn.Module = model.get_output_embeddings()
        use_attention(model)
        self._check_exact()

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype  # type: ignore[no-any-return]

    # --- passes through the model

    def read(self, ids: IntArray, positions: IntArray, layout: Layout, cache: Any = None) -> Tensor:
        """[t, d] last hidden states of t ids; what is read is appended to the cache."""
        rows, where = (
            torch.from_numpy(np.asarray(x, dtype=np.int64)).to(self.device)[None]
            for x in (ids, positions)
        )
        out = self.model.base_model(
            input_ids=rows, position_ids=where, past_key_values=cache,
            use_cache=cache is not None,
            attention_mask=torch.empty(1, 1, 1, 1),  # a ready one, so that none is built
            **{LAYOUT: layout},
        )  # fmt: skip
        hidden: Tensor = out.last_hidden_state[0]
        return hidden

    def packed(self, texts: Sequence[IntArray]) -> Tensor:
        """[Σ lengths, d] hidden states of texts that do not see each other; with gradients."""
        lengths = [len(text) for text in texts]
        self.check_window(max(lengths, default=0), "a prompt and its answer")
        positions = np.concatenate([np.arange(n) for n in lengths])
        return self.read(np.concatenate(texts), positions, Packed(lengths))

    def prompt(self, ids: IntArray) -> tuple[Any, Tensor]:
        """(a cache with the prompt's keys and values, the last token's hidden state [1, d])."""
        from transformers import DynamicCache

        if not len(ids):
            raise DataError("a prompt needs at least one token")
        cache = DynamicCache()
        return cache, self.read(ids, np.arange(len(ids)), Packed([len(ids)]), cache)[-1:]

    def nodes(self, tree: PrefixTree, cache: Any) -> Tensor:
        """[t, d] hidden states of a tree's nodes behind the cached prompt; the cache stays as it is."""
        before = cache.get_seq_length()
        layout = Behind(before, held=False, spans=self._spans(tree))
        hidden = self.read(tree.token, tree.depth + before, layout, cache)
        cache.crop(-len(tree))
        return hidden

    def whole(self, prompt: IntArray, tree: PrefixTree) -> tuple[Tensor, Tensor]:
        """(`prompt`'s last state, `nodes`) in a single pass that keeps nothing."""
        if not len(prompt):
            raise DataError("a prompt needs at least one token")
        before = len(prompt)
        ids = np.concatenate([prompt, tree.token])
        positions = np.concatenate([np.arange(before), tree.depth + before])
        hidden = self.read(ids, positions, Behind(before, held=True, spans=self._spans(tree)))
        return hidden[before - 1 : before], hidden[before:]

    def _spans(self, tree: PrefixTree) -> list[Span]:
        size = AT_ONCE if self.device.type == "cpu" else MOST_NODES
        return [self.span(*one) for one in tree.spans(size)]

    def span(
        self, start: int, end: int, above: NDArray[np.int64] | None, sees: NDArray[np.bool_]
    ) -> Span:
        """Nodes [start, end) whose `sees` [end − start, m + end − start] marks what each attends to:
        of `above` [m], None for all that come before, and of themselves."""
        there = None if above is None else torch.from_numpy(above).to(self.device)
        return Span(start, end, there if start else None, self._ahead(sees))

    def _ahead(self, sees: NDArray[np.bool_]) -> Tensor:
        """0 where something is seen, −inf elsewhere."""
        ahead = torch.zeros(sees.shape, dtype=self.dtype)
        ahead.masked_fill_(~torch.from_numpy(sees), float("-inf"))
        return ahead.to(self.device)

    def logits(self, hidden: Tensor) -> Tensor:
        """[m, vocabulary] float32, or float64 from a float64 model."""
        scores: Tensor = self.head(hidden)
        return scores if scores.dtype == torch.float64 else scores.float()

    @torch.no_grad()
    def _check_exact(self) -> None:
        """Two short texts read together here and apart by transformers give the same logits."""
        if self.device.type == "meta":
            return
        training, name = self.model.training, type(self.model).__name__
        self.model.eval()
        try:
            texts = [np.array([3, 1, 2]), np.array([2, 3])]
            ours = self.logits(self.packed(texts)).double()
            apart = [torch.from_numpy(text).to(self.device)[None] for text in texts]
            each = [self.model(input_ids=ids, use_cache=False).logits[0] for ids in apart]
            theirs = torch.cat(each).double()
        except TypeError as error:
            raise MismatchError(f"{name} does not hand on what attention needs to know") from error
        finally:
            self.model.train(training)
        allowed = 0.1 if self.dtype in (torch.bfloat16, torch.float16) else 1e-3
        if (ours - theirs).abs().max() > allowed * (theirs.abs().max() + 1e-6):
            raise MismatchError(f"{name} computes its logits in a way that is not supported")

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
            edge_logs = self._log_probabilities(states, edges, ids)
            total[rows] = tree.sums(edge_logs[: len(tree)]) + edge_logs[len(tree) :]

        self._in_blocks(prompt, candidates, score)
        return LogLikelihood(total, _lengths(candidates))

    @torch.inference_mode()
    def continuations_together(
        self, prompts: Sequence[IntArray], candidates: Sequence[Sequence[IntArray]], end: int
    ) -> list[LogLikelihood]:
        """`continuations` of several prompts, each with its own candidates, in as few passes as the
        memory bound allows: fewer and larger products, and therefore other last bits."""
        if len(prompts) < 2:
            each = zip(prompts, candidates, strict=True)
            return [self.continuations(prompt, titles, end) for prompt, titles in each]
        trees = [PrefixTree.of(sequences) for sequences in candidates]
        if not self._fit(prompts, trees):
            half = len(trees) // 2
            first = self.continuations_together(prompts[:half], candidates[:half], end)
            return first + self.continuations_together(prompts[half:], candidates[half:], end)
        self.model.eval()
        hidden, row = self._several(prompts, trees)  # row: of each tree's first node
        last = np.cumsum([len(prompt) for prompt in prompts]) - 1
        edges, ids = [], []
        for tree, node, before in zip(trees, row, last, strict=True):
            edges.append(np.where(tree.parent < 0, before, tree.parent + node))
            edges.append(tree.leaf + node)
            ids += [tree.token, np.full(len(tree.leaf), end)]
        edge_logs = self._log_probabilities(hidden, np.concatenate(edges), np.concatenate(ids))
        parts = np.split(edge_logs, np.cumsum([len(one) for one in ids])[:-1])
        return [
            LogLikelihood((tree.sums(inner) + outer).astype(np.float32), _lengths(sequences))
            for tree, inner, outer, sequences in zip(
                trees, parts[::2], parts[1::2], candidates, strict=True
            )
        ]

    def _several(
        self, prompts: Sequence[IntArray], trees: Sequence[PrefixTree]
    ) -> tuple[Tensor, NDArray[np.int64]]:
        """([tokens, d] states of all prompts, then of all trees' nodes; [n] each tree's first row)."""
        lengths, nodes = [len(one) for one in prompts], [len(one) for one in trees]
        for length, tree in zip(lengths, trees, strict=True):
            self.check_window(length + tree.path.shape[1], "a prompt and its longest title")
        before, widest = max(lengths), max(nodes)
        sees = np.zeros((len(trees), widest, before + widest), dtype=bool)
        for number, (length, tree) in enumerate(zip(lengths, trees, strict=True)):
            sees[number, :, :length] = True
            node, at = tree.sees
            sees[number, node, before + at] = True
        ids = np.concatenate([*prompts, *(tree.token for tree in trees)])
        positions = [np.arange(length) for length in lengths]
        positions += [tree.depth + length for length, tree in zip(lengths, trees, strict=True)]
        layout = Several(lengths, nodes, self._ahead(sees)[:, None])
        starts = sum(lengths) + np.cumsum([0, *nodes[:-1]])
        return self.read(ids, np.concatenate(positions), layout), starts

    @torch.inference_mode()
    def final_logits(
        self, prompt: IntArray, suffixes: Sequence[IntArray], tokens: Sequence[int]
    ) -> NDArray[np.float32]:
        """[C, n] float32: log P(token | prompt, suffix) of n tokens after each of C suffixes."""
        out = np.empty((len(suffixes), len(tokens)), dtype=np.float32)

        def score(rows: NDArray[np.int64], tree: PrefixTree, last: Tensor, nodes: Tensor) -> None:
            edges = np.repeat(tree.leaf, len(tokens))
            edge_logs = self._log_probabilities(nodes, edges, np.tile(tokens, len(rows)))
            out[rows] = edge_logs.reshape(len(rows), len(tokens))

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
        longest = max((len(one) for one in sequences), default=0)
        self.check_window(len(prompt) + longest, "a prompt and its longest title")
        most = self._most_nodes(len(prompt))
        parts = list(blocks(sequences, most))
        if len(parts) == 1:
            tree = PrefixTree.of(sequences)
            if len(prompt) + len(tree) <= most:
                score(np.arange(len(sequences)), tree, *self.whole(prompt, tree))
                return
        cache, last = self.prompt(prompt)
        for rows in parts:
            tree = PrefixTree.of([sequences[row] for row in rows.tolist()])
            score(rows, tree, last, self.nodes(tree, cache))

    def check_window(self, tokens: int, what: str) -> None:
        """A `WeftError` if `what` has more tokens than are read exactly."""
        if self.window is not None and tokens > self.window:
            raise SettingError(
                f"{what} have {tokens} tokens, and the backbone's window is {self.window}: "
                "lower recommender.prompt.max_tokens"
            )

    def _most_nodes(self, prompt: int) -> int:
        """Rows of one pass so that its activations, keys and scores stay within half the bound."""
        most = MOST_NODES
        while most > 1:
            span = min(most, AT_ONCE) if self.device.type == "cpu" else most
            if (
                most * self._row_bytes + self._score_bytes(span, prompt + 2 * span)
                <= self.memory // 2
            ):
                break
            most //= 2
        return most

    def _fit(self, prompts: Sequence[IntArray], trees: Sequence[PrefixTree]) -> bool:
        """Whether these can be read in one pass within half the bound."""
        longest, widest = max(map(len, prompts)), max(map(len, trees))
        tokens = sum(map(len, prompts)) + sum(map(len, trees))
        scores = len(trees) * self._score_bytes(widest, longest + widest)
        return tokens * self._row_bytes + scores <= self.memory // 2

    @property
    def _row_bytes(self) -> int:
        """Of one token's activations in a layer, and its keys and values in all."""
        config = self.model.config
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        groups = getattr(config, "num_key_value_heads", None) or heads
        inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
        row = 4 * (6 * config.hidden_size + 3 * inner)
        return int(row + 4 * 2 * config.num_hidden_layers * groups * size)

    def _score_bytes(self, queries: int, keys: int) -> int:
        return 4 * 2 * int(self.model.config.num_attention_heads) * queries * keys

    def _log_probabilities(
        self, states: Tensor, edges: NDArray[np.int64], ids: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """[m] float32: log P(ids[i] | the state in row edges[i]), in chunks of the states.

        Only states that are asked go through the head.
        """
        out = np.empty(len(edges), dtype=np.float32)
        needed, edges = np.unique(edges, return_inverse=True)
        if len(needed) < len(states):
            states = states[torch.from_numpy(needed).to(states.device)]
        vocabulary = int(self.model.config.vocab_size)
        rows = max(1, self.memory // 2 // (vocabulary * 12))
        for start in range(0, len(states), rows):
            there = np.flatnonzero((edges >= start) & (edges < start + rows))
            logits = self.logits(states[start : start + rows])
            at = torch.from_numpy(edges[there] - start).to(logits.device)
            wanted = torch.from_numpy(np.asarray(ids)[there]).to(logits.device)
            out[there] = torch.log_softmax(logits, dim=-1)[at, wanted].cpu().numpy()
        return out


def _lengths(sequences: Sequence[IntArray]) -> NDArray[np.int64]:
    """Tokens of each with its end."""
    return np.array([len(one) + 1 for one in sequences], dtype=np.int64)
