"""TALLRec (Bao et al., 2023): a causal language model is asked whether a user will like an item.

The prompt shows the history and one item, and the answer is Yes or No. A candidate's score is
log P(Yes) − log P(No) after its question, by the first token of each word; all candidates of a user
share the history's keys and values, so that 30 questions cost little more than one.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from weft.data.domain import Catalogue, Examples
from weft.evaluation.candidates import CandidateSettings, draw_candidates
from weft.recommenders.contract import Histories
from weft.recommenders.equipped import EquippedBackbone
from weft.recommenders.text.base import TextRecommenderSettings
from weft.recommenders.text.lm.packing import packed_loss
from weft.recommenders.text.prompted import Prompted
from weft.text import ItemTokens, TextSettings
from weft.text.prompt import PromptSettings, YesNoPrompt


class YesNoSettings(TextRecommenderSettings):
    """The `recommender:` block of a recipe."""

    kind: Literal["yes_no"] = "yes_no"
    text: TextSettings = TextSettings(tokens=None)
    prompt: PromptSettings = PromptSettings()
    memory: int = Field(default=2 << 30, ge=1 << 20, description="bytes for scoring one user")

    def for_training(self) -> YesNoSettings:
        """The same with every setting at its default that training does not look at."""
        return self.model_copy(update={"memory": YesNoSettings().memory})


class YesNo(Prompted):
    """A recommender over a catalogue: backbone + adapter, scores are the log-odds of Yes."""

    settings_type = YesNoSettings
    settings: YesNoSettings

    def __init__(
        self,
        equipped: EquippedBackbone,
        settings: YesNoSettings,
        catalogue: Catalogue | None = None,
    ) -> None:
        super().__init__(equipped, settings, catalogue, memory=settings.memory)
        self.prompt = YesNoPrompt(self.tokenizer, settings.prompt)

    def _scores(
        self, tokens: ItemTokens, histories: Histories, candidates: NDArray[np.int64] | None
    ) -> NDArray[np.float32]:
        """log P(Yes) − log P(No) of each item; −inf for an item without a title."""
        items = len(self.catalogue)
        width = items if candidates is None else candidates.shape[1]
        out = np.full((len(histories), width), -np.inf, dtype=np.float32)
        longest = int(tokens.lengths[:items].max(initial=0))
        prefixes = self.prompt.prefixes(tokens, histories, longest, self.language.window)
        self._count(prefixes)
        answers = [self.prompt.yes, self.prompt.no]
        for row in range(len(histories)):
            asked = self._titled(tokens) if candidates is None else candidates[row]
            self._check_titled(tokens, asked)
            ends = [self.prompt.suffix(tokens, item) for item in asked.tolist()]
            logits = self.language.final_logits(prefixes.ragged.of(row), ends, answers)
            columns = asked if candidates is None else np.arange(width)
            out[row, columns] = logits[:, 0] - logits[:, 1]
            self._has_read("histories", 1, len(histories))
        return out

    # --- training

    def loss(self, batch: Examples) -> Tensor:
        """Mean cross entropy of Yes after each target and No after one drawn item each."""
        tokens = self.tokens(batch.domain.items)
        pairs = draw_candidates(batch, CandidateSettings(drawn=1), seed=0)
        self._check_titled(tokens, batch.targets.astype(np.int64), batch.domain.items)
        longest, window = int(tokens.lengths.max(initial=0)), self.language.window
        prefixes = self.prompt.prefixes(tokens, batch.histories(), longest, window).ragged
        rows, starts = [], []
        for row in range(len(batch)):
            for item, answer in zip(pairs[row].tolist(), self.prompt.answers, strict=True):
                asked = np.concatenate([prefixes.of(row), self.prompt.suffix(tokens, item)])
                rows.append(np.concatenate([asked, answer]))
                starts.append(len(asked))
        return packed_loss(self.language, rows, starts)
