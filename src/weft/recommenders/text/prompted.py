"""What recommenders share that ask a causal language model about titles."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray

from weft.data.domain import Catalogue, IntArray
from weft.errors import DataError
from weft.recommenders.contract import Histories
from weft.recommenders.equipped import EquippedBackbone
from weft.recommenders.text.base import TextRecommender, TextRecommenderSettings
from weft.recommenders.text.lm.model import LanguageModel
from weft.text import ItemTokens
from weft.text.prompt import Prompts, title_tokens


class Prompted(TextRecommender):
    """A backbone with its causal head, an adapter, a catalogue's title tokens."""

    backbone_head = "causal"

    def __init__(
        self,
        equipped: EquippedBackbone,
        settings: TextRecommenderSettings,
        catalogue: Catalogue | None = None,
        *,
        memory: int,
    ) -> None:
        super().__init__(equipped, settings, catalogue)
        equipped.equip()
        self.language = LanguageModel(self.model, memory=memory)

    def _tokenize(self, catalogue: Catalogue) -> ItemTokens:
        return title_tokens(self.tokenizer, catalogue, self.settings.text)

    def score(
        self, histories: Histories, candidates: IntArray | None = None
    ) -> NDArray[np.float32]:
        """[n, c] float32 scores of `candidates` [n, c], or [n, items] without them.

        Users are read one at a time, so batches change no bit; two settings read several at once
        (`together`, `ranker: published`).
        """
        asked = None if candidates is None else np.asarray(candidates, dtype=np.int64)
        return self._scores(self.tokens(self.catalogue), histories, asked)

    @abstractmethod
    def _scores(
        self, tokens: ItemTokens, histories: Histories, candidates: NDArray[np.int64] | None
    ) -> NDArray[np.float32]:
        """`score` for histories that are rows of `tokens`: the catalogue's, then any others."""

    def _scores_of_titles(self, titles: list[str], histories: Histories) -> NDArray[np.float32]:
        items = self.tokens(self.catalogue)
        others = title_tokens(self.tokenizer, titles, self.settings.text)
        both = ItemTokens(
            np.concatenate([items.offsets, others.offsets[1:] + items.offsets[-1]]),
            np.concatenate([items.ids, others.ids]),
        )
        return self._scores(both, [row + len(items) for row in histories], None)

    def _count(self, prompts: Prompts) -> None:
        self.tally["prompts"] += len(prompts.ragged)
        self.tally["prompts with a history cut"] += int((prompts.history_cut > 0).sum())

    def _titled(self, tokens: ItemTokens) -> NDArray[np.int64]:
        """The catalogue's items that have a title."""
        return np.flatnonzero(tokens.lengths[: len(self.catalogue)])

    def _check_titled(
        self, tokens: ItemTokens, items: NDArray[np.int64], catalogue: Catalogue | None = None
    ) -> None:
        empty = tokens.lengths[items] == 0
        if empty.any():
            item = (catalogue or self.catalogue).item_ids[int(items[empty][0])]
            raise DataError(
                f"item '{item}' has no title, so a language model can't name it; leave such items out "
                "with the domain's filters: {titled: true}"
            )
