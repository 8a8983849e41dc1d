"""What every recommender of texts has: its catalogue's items as tokens, and histories of titles."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.data.domain import Catalogue, IntArray
from weft.recommenders.contract import BackboneRecommender, Histories, RecommenderSettings
from weft.recommenders.equipped import EquippedBackbone
from weft.recommenders.ranking import Ranking, best, rows_with_titles
from weft.text import ItemTokens, TextSettings


class TextRecommenderSettings(RecommenderSettings):
    """The settings of a recommender that reads items' texts."""

    text: TextSettings


class TextRecommender(BackboneRecommender):
    """A recommender that reads the texts of items with a pretrained language model."""

    reads_text = True
    settings: TextRecommenderSettings

    def __init__(
        self,
        equipped: EquippedBackbone,
        settings: TextRecommenderSettings,
        catalogue: Catalogue | None = None,
    ) -> None:
        super().__init__(equipped, settings, catalogue)
        self._tokens: dict[int, tuple[Catalogue, ItemTokens]] = {}

    @property
    def tokenizer(self) -> Any:
        return self.backbone.tokenizer

    def tokens(self, catalogue: Catalogue) -> ItemTokens:
        """The catalogue's item tokens, computed once for each catalogue."""
        known = self._tokens.get(id(catalogue))
        if known is None:
            known = self._tokens[id(catalogue)] = (catalogue, self._tokenize(catalogue))
        return known[1]

    @abstractmethod
    def _tokenize(self, catalogue: Catalogue) -> ItemTokens:
        """Tokens of every item, in the catalogue's order."""

    def unread_items(self) -> NDArray[np.bool_]:
        """Items without any text that is read."""
        unread: NDArray[np.bool_] = self.tokens(self.catalogue).lengths == 0
        return unread

    @property
    def reads_whole_items(self) -> bool:
        """Whether more of an item is read than its title."""
        return self.settings.text.fields != ["title"]

    def top_k_of_titles(
        self, histories: Sequence[Sequence[str]], k: int, *, mask_history: bool = True
    ) -> Ranking:
        """`top_k` for histories of raw titles, oldest first, of any catalogue or none.

        With `mask_history`, catalogue items whose title is in the history are left out.
        """
        titles, rows = flattened(histories)
        scores = self._scores_of_titles(titles, rows)
        masked = rows_with_titles(self.catalogue, histories) if mask_history else None
        return best(scores, k, masked)

    @abstractmethod
    def _scores_of_titles(self, titles: list[str], histories: Histories) -> NDArray[np.float32]:
        """[n, items] scores for histories that are rows of a list of titles."""


def by_length(lengths: IntArray, most: int) -> Iterator[IntArray]:
    """All rows, shortest first, in runs that take at most `most` tokens when padded; at least one.

    >>> [rows.tolist() for rows in by_length(np.array([5, 2, 9, 3]), most=10)]
    [[1, 3], [0], [2]]
    """
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * lengths[order[stop]] <= most:
            stop += 1
        yield order[start:stop]
        start = stop


def flattened(histories: Sequence[Sequence[str]]) -> tuple[list[str], list[NDArray[np.int64]]]:
    """All titles of the histories in one list, and each history as rows of it.

    >>> flattened([["mug", "lamp"], [], ["rug"]])
    (['mug', 'lamp', 'rug'], [array([0, 1]), array([], dtype=int64), array([2])])
    """
    flat = [title for history in histories for title in history]
    ends = np.cumsum([len(history) for history in histories], dtype=np.int64)
    return flat, np.split(np.arange(len(flat)), ends[:-1]) if len(histories) else []
