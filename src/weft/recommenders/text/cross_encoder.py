"""The cross-encoder: history and one candidate in one text, scored by a head (X-Cross, §3.1–3.2.5).

    pooled = GELU(W_p h[CLS] + b_p),   score = V_cᵀ pooled + b_c

An encoder reads 'history + candidate' and its first token is pooled, a causal model's last. Trained
with softmax cross entropy over the target and drawn candidates (equation 1). Pooler and scorer are
saved whole in the adapter. Every pair is read by itself: exact, and 30 times the work of a vector.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from weft.backbones.blocks import last_block_for_first_token, longest_input
from weft.data.domain import Catalogue, Examples, IntArray
from weft.errors import SettingError
from weft.evaluation.candidates import CandidateSettings, draw_candidates, train_counts
from weft.recommenders.contract import Histories
from weft.recommenders.equipped import EquippedBackbone
from weft.recommenders.text.base import TextRecommender, TextRecommenderSettings, by_length
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


class CrossEncoderSettings(TextRecommenderSettings):
    """The `recommender:` block of a recipe."""

    kind: Literal["cross_encoder"] = "cross_encoder"
    text: TextSettings = TextSettings(words=8, tokens=32)
    prompt: PairSettings = PairSettings()
    drawn: int = Field(default=29, ge=1, description="candidates beside the truth in training")
    by: Literal["uniform", "popularity"] = "popularity"
    pooling: Literal["auto", "first", "last"] = Field(
        default="auto", description="the token that is pooled; auto: the first if it is [CLS]"
    )

    @property
    def ranks_catalogues_by_default(self) -> bool:
        """No: a prompt would be read for each item and user."""
        return False

    def guesses_among(self, batch: int) -> int:
        """The target and what is drawn beside it."""
        return 1 + self.drawn


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


class CrossEncoder(TextRecommender):
    """A recommender over a catalogue: backbone + adapter + head, scores are logits.

    The head is random, of the equipped backbone's seed, where no adapter brings one.
    """

    settings_type = CrossEncoderSettings
    integrates = True
    settings: CrossEncoderSettings

    def __init__(
        self,
        equipped: EquippedBackbone,
        settings: CrossEncoderSettings,
        catalogue: Catalogue | None = None,
    ) -> None:
        super().__init__(equipped, settings, catalogue)
        self.prompt = PairPrompt(self.tokenizer, settings.prompt)
        longest = longest_input(self.model)
        if longest is not None and settings.prompt.max_tokens > longest:
            raise SettingError(
                f"recommender.prompt.max_tokens is {settings.prompt.max_tokens}, "
                f"and the backbone '{self.backbone.name}' reads at most {longest}"
            )
        self._multiple = math.gcd(WIDTHS, longest or WIDTHS)
        config: Any = self.model.config
        config.use_cache = False
        first = settings.pooling == "first" or (settings.pooling == "auto" and self.prompt.framed)
        self._first = first
        if first:
            last_block_for_first_token(self.model)
        self.head = add_head(self.model, equipped.seed)
        equipped.equip(self.head, layout=first)
        self._popularities: dict[str, NDArray[np.int64]] = {}

    def whole_modules(self) -> Mapping[str, nn.Module]:
        """Pooler and scorer."""
        return self.head

    def prepare(self, train: Sequence[Examples]) -> None:
        """Draw training's candidates by the popularities in these, splits' whole training parts."""
        for one in train:
            self._popularities[one.domain.hash] = train_counts(one)

    # --- text to states

    def _tokenize(self, catalogue: Catalogue) -> ItemTokens:
        return encode_items(self.tokenizer, catalogue, self.settings.text)

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """[n, d]: the last hidden state of the pooled token of ids and mask [n, tokens]."""
        return self.pooled_token(self.equipped.hidden(ids, mask), mask)

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
        ids, mask = pad(rows, chosen, self.tokenizer.pad_token_id or 0, self._multiple)
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
                self._has_read("histories", users * len(chosen) / len(rows), users)
        return out

    # --- scoring

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

    def _scores_of_titles(self, titles: list[str], histories: Histories) -> NDArray[np.float32]:
        tokens = encode_titles(self.tokenizer, titles, self.settings.text)
        return self._scores(tokens, histories, None)

    # --- training

    def lengths(self, examples: Examples) -> NDArray[np.int64]:
        """[n] int64: tokens of each prompt without its candidate."""
        tokens = self.tokens(examples.domain.items)
        longest = int(tokens.lengths.max(initial=0))
        prompts = [self.prompt.history(tokens, one, longest) for one in examples.histories()]
        return np.fromiter(map(len, prompts), dtype=np.int64, count=len(prompts))

    def training_rows(self, batch: Examples) -> Ragged:
        """n · (1 + drawn) prompts: of each example the target, then what is drawn for it.

        What is drawn for an example is the same in every epoch. Raises a `WeftError` where it is by
        popularity and the domain's is not known.
        """
        items = batch.domain.items
        tokens = self.tokens(items)
        counts = self._popularities.get(batch.domain.hash)
        if counts is None and self.settings.by == "popularity":
            raise SettingError(
                f"candidates of domain '{batch.domain.name}' are drawn by popularity in training: "
                "call prepare([split.train]) first"
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
        ids, mask = self.inputs(rows, np.arange(len(rows)))
        hidden = self.equipped.training_hidden(ids, mask, len(batch))
        return self.choice_loss(self.pooled_token(hidden, mask), len(batch))

    def choice_loss(self, states: Tensor, examples: int) -> Tensor:
        """Equation 1 over states [n · c, d] in which each example's target comes first."""
        scores = self.head_scores(states).view(examples, -1)
        first = torch.zeros(examples, dtype=torch.int64, device=scores.device)
        return nn.functional.cross_entropy(scores, first)
