"""The cross-encoder: history and one candidate in one text, scored by a head (X-Cross, §3.1–3.2.5).

    pooled = GELU(W_p h[CLS] + b_p),   score = V_cᵀ pooled + b_c

An encoder reads 'history + candidate' and its first token is pooled, a causal model's last. Trained
with softmax cross entropy over the target and drawn candidates (equation 1). Pooler and scorer are
saved whole in the adapter. Every pair is read by itself: exact, and 30 times the work of a vector.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from weft.adapters import Adapter, LoraSettings
from weft.backbones import Backbone
from weft.backbones.blocks import last_block_for_first_token, longest_input
from weft.data.domain import Catalogue, Examples, IntArray
from weft.errors import WeftError
from weft.evaluation.candidates import CandidateSettings, draw_candidates, train_counts
from weft.recommenders.catalogued import Catalogued, by_length, told
from weft.recommenders.equip import equip
from weft.recommenders.protocol import Histories, Ranking, best, rows_with_titles
from weft.settings import StrictModel
from weft.text import (
    ItemTokens,
    Ragged,
    TextSettings,
    encode_items,
    encode_titles,
    pad,
    ragged,
)
from weft.text.pair import PairPrompt, PairSettings

WIDTHS = 8  # inputs are as wide as a multiple of this: memory that fits one step fits the next
TOKENS_AT_ONCE = 4096  # of one forward pass without gradients: activations stay in the cache


class CrossEncoderSettings(StrictModel):
    """The `recommender:` block of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["cross_encoder"] = "cross_encoder"
    text: TextSettings = TextSettings(words=8, tokens=32)
    prompt: PairSettings = PairSettings()
    drawn: int = Field(default=29, ge=1, description="candidates beside the truth in training")
    by: Literal["uniform", "popularity"] = "popularity"
    pooling: Literal["auto", "first", "last"] = Field(
        default="auto", description="the token that is pooled; auto: the first if it is [CLS]"
    )

    ranks_catalogues: ClassVar[bool] = True

    def for_training(self) -> CrossEncoderSettings:
        """The settings that training looks at: all."""
        return self


class Pooler(nn.Module):
    """GELU(W_p h + b_p) of a pooled token; equation 7."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[n, d] of hidden states [n, tokens, d], as transformers' poolers: of the first token."""
        return self.pool(hidden_states[:, 0])

    def pool(self, states: Tensor) -> Tensor:
        """[n, d] float32 of the pooled tokens' states [n, d]."""
        return nn.functional.gelu(self.dense(states.float()))


def add_head(model: Any, seed: int) -> dict[str, nn.Module]:
    """Give a model the modules `pooler` and `scorer`, float32, random from `seed`."""
    width, device = int(model.config.hidden_size), next(model.parameters()).device
    state = torch.random.get_rng_state()
    try:
        torch.manual_seed(seed)
        model.pooler, model.scorer = Pooler(width).to(device), nn.Linear(width, 1).to(device)
    finally:
        torch.random.set_rng_state(state)
    return {"pooler": model.pooler, "scorer": model.scorer}


class CrossEncoder(Catalogued):
    """A recommender over a catalogue: backbone + adapter + head, scores are logits.

    With `adapter` its delta is folded into the weights and its head put on: for use. With `lora`
    LoRA linears are attached, and they and the head can be trained. With neither the head is random.
    The backbone's model is changed in place and belongs to this object from then on.
    """

    def __init__(
        self,
        backbone: Backbone,
        settings: CrossEncoderSettings,
        catalogue: Catalogue | None = None,
        *,
        adapter: Adapter | None = None,
        lora: LoraSettings | None = None,
        lora_seed: int = 0,
        cache: Path | None = None,  # of item vectors: there are none here
    ) -> None:
        super().__init__(catalogue)
        self.backbone, self.settings, self.model = backbone, settings, backbone.model
        self.prompt = PairPrompt(backbone.tokenizer, settings.prompt)
        longest = longest_input(self.model)
        if longest is not None and settings.prompt.max_tokens > longest:
            raise WeftError(
                f"recommender.prompt.max_tokens is {settings.prompt.max_tokens}, "
                f"and the backbone '{backbone.name}' reads at most {longest}"
            )
        self._multiple = math.gcd(WIDTHS, longest or WIDTHS)
        config: Any = self.model.config
        config.use_cache = False
        first = settings.pooling == "first" or (settings.pooling == "auto" and self.prompt.framed)
        self._first = first
        if first:
            last_block_for_first_token(self.model)
        self.head = add_head(self.model, lora_seed)
        if adapter is not None and not {"scorer.weight", "pooler.dense.weight"} <= set(
            adapter.saved
        ):
            raise WeftError("the adapter has no pooler and scorer, so a cross-encoder can't use it")
        self._equip(adapter, lora, lora_seed)
        self._counts: dict[str, NDArray[np.int64]] = {}

    def _equip(self, adapter: Adapter | None, lora: LoraSettings | None, lora_seed: int) -> None:
        self.attached, self._weights = equip(self.backbone, adapter, lora, lora_seed)
        if lora is not None:
            for module in self.head.values():
                module.requires_grad_(True)

    def know(self, train: Examples) -> None:
        """Draw training's candidates by the popularities in this, a split's whole training part."""
        self._counts[train.domain.hash] = train_counts(train)

    # --- text to states

    def _tokenize(self, catalogue: Catalogue) -> ItemTokens:
        return encode_items(self.backbone.tokenizer, catalogue, self.settings.text)

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """[n, d]: the last hidden state of the pooled token of ids and mask [n, tokens]."""
        return self.pooled_token(
            self.model(input_ids=ids, attention_mask=mask).last_hidden_state, mask
        )

    def pooled_token(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """[n, d] of hidden states [n, tokens, d]: the first token, or the last of each row."""
        if self._first:
            return hidden[:, 0]
        return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1]

    def head_scores(self, states: Tensor) -> Tensor:
        """[n] float32 scores of pooled tokens' states [n, d]; equations 7 and 8."""
        pooler, scorer = self.head["pooler"], self.head["scorer"]
        assert isinstance(pooler, Pooler)
        scores: Tensor = scorer(pooler.pool(states)).squeeze(-1)
        return scores

    def inputs(self, rows: Ragged, chosen: IntArray) -> tuple[Tensor, Tensor]:
        """Ids and mask [n, tokens] of the chosen rows, on the model's device."""
        ids, mask = pad(rows, chosen, self.backbone.tokenizer.pad_token_id or 0, self._multiple)
        device = next(self.model.parameters()).device
        return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)

    def score_rows(self, rows: Ragged, users: int = 0) -> NDArray[np.float32]:
        """[n] float32 scores of prompts (of so many users), without gradients, sorted by length
        inside."""
        out = np.empty(len(rows), dtype=np.float32)
        self.model.eval()
        with torch.inference_mode():
            for chosen in by_length(rows.lengths, TOKENS_AT_ONCE):
                states = self.states(*self.inputs(rows, chosen))
                out[chosen] = self.head_scores(states).cpu().numpy()
                self._scored(users * len(chosen) / len(rows))
        return out

    # --- the Recommender protocol

    def score(
        self, histories: Histories, candidates: IntArray | None = None
    ) -> NDArray[np.float32]:
        """Logits [n, c] for `candidates` [n, c], or [n, items] without them.

        A user's candidates of equal text are read once, so that a tie is a tie.
        """
        tokens = self.tokens(self.catalogue)
        return self._scores(tokens, histories, candidates)

    def _scores(
        self, spoken: ItemTokens, histories: Histories, candidates: IntArray | None
    ) -> NDArray[np.float32]:
        """`score` for histories that are rows of `spoken`."""
        tokens = self.tokens(self.catalogue)
        longest = int(tokens.lengths.max(initial=0))
        every = np.arange(len(tokens))
        width = len(tokens) if candidates is None else candidates.shape[1]
        out = np.empty((len(histories), width), dtype=np.float32)
        step = max(1, 4096 // max(1, width))  # users whose prompts are held at once
        for first in range(0, len(histories), step):
            rows: list[NDArray[np.int32]] = []
            places: list[NDArray[np.int64]] = []
            for user in range(first, min(first + step, len(histories))):
                asked = every if candidates is None else np.asarray(candidates[user])
                items, place = np.unique(tokens.text[asked], return_inverse=True)
                begin = self.prompt.history(spoken, histories[user], longest)
                places.append(place + len(rows))
                rows += self.prompt.prompts(begin, tokens, items)
            scores = self.score_rows(ragged(rows), len(places))
            for user, place in enumerate(places, start=first):
                out[user] = scores[place]
        return out

    def top_k_of_titles(
        self, histories: Sequence[Sequence[str]], k: int, *, mask_history: bool = True
    ) -> Ranking:
        """`top_k` for histories of raw titles, oldest first, of any catalogue or none.

        With `mask_history`, catalogue items whose title is in the history are left out.
        """
        flat, rows = told(histories)
        tokens = encode_titles(self.backbone.tokenizer, flat, self.settings.text)
        masked = rows_with_titles(self.catalogue, histories) if mask_history else None
        return best(self._scores(tokens, rows, None), k, masked)

    # --- training

    def lengths(self, examples: Examples) -> NDArray[np.int64]:
        """[n] int64: tokens of each prompt without its candidate."""
        tokens = self.tokens(examples.domain.items)
        longest = int(tokens.lengths.max(initial=0))
        made = [self.prompt.history(tokens, one, longest) for one in examples.histories()]
        return np.fromiter(map(len, made), dtype=np.int64, count=len(made))

    def training_rows(self, batch: Examples) -> Ragged:
        """n · (1 + drawn) prompts: of each example the target, then what is drawn for it.

        What is drawn for an example is the same in every epoch. Raises a `WeftError` where it is by
        popularity and the domain's is not known.
        """
        items = batch.domain.items
        tokens = self.tokens(items)
        counts = self._counts.get(batch.domain.hash)
        if counts is None and self.settings.by == "popularity":
            raise WeftError(
                f"candidates of domain '{batch.domain.name}' are drawn by popularity in training: "
                "call know(split.train) first"
            )
        draw = CandidateSettings(drawn=self.settings.drawn, by=self.settings.by)
        drawn = draw_candidates(batch, draw, 0, counts)
        longest = int(tokens.lengths.max(initial=0))
        rows: list[NDArray[np.int32]] = []
        for history, asked in zip(batch.histories(), drawn, strict=True):
            begin = self.prompt.history(tokens, history, longest)
            rows += self.prompt.prompts(begin, tokens, asked)
        return ragged(rows)

    def loss(self, batch: Examples) -> Tensor:
        """Mean cross entropy of the target among itself and the drawn candidates; equation 1."""
        rows = self.training_rows(batch)
        states = self.states(*self.inputs(rows, np.arange(len(rows))))
        return self.choice_loss(states, len(batch))

    def choice_loss(self, states: Tensor, examples: int) -> Tensor:
        """Equation 1 over states [n · c, d] in which each example's target comes first."""
        scores = self.head_scores(states).view(examples, -1)
        first = torch.zeros(examples, dtype=torch.int64, device=scores.device)
        return nn.functional.cross_entropy(scores, first)


def whole_modules(recommender: object) -> Mapping[str, nn.Module]:
    """The modules that a recommender's adapter saves whole."""
    return recommender.head if isinstance(recommender, CrossEncoder) else {}
