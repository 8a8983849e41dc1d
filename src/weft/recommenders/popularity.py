"""The floor: everyone is offered what was bought most. Nothing is learned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weft.data.domain import Catalogue, Examples, IntArray
from weft.evaluation.candidates import train_counts
from weft.recommenders.item_counts import ItemCounts
from weft.recommenders.protocol import Histories, Ranking


@dataclass(eq=False)
class Popularity:
    """Scores every item by its number of training interactions, whatever the history."""

    catalogue: Catalogue
    counts: NDArray[np.int64]  # [items]

    @classmethod
    def of(cls, train: Examples) -> Popularity:
        """Counts what the training part of a split sees, the whole of it."""
        return cls(train.domain.items, train_counts(train))

    def use(self, catalogue: Catalogue) -> None:
        """Score this catalogue from now on: an item's count stays its own, by its id."""
        self.counts = (
            ItemCounts(self.catalogue, self.counts, self.counts).on(catalogue).interactions
        )
        self.catalogue = catalogue

    def score(
        self, histories: Histories, candidates: IntArray | None = None
    ) -> NDArray[np.float32]:
        """[n, c] for `candidates` [n, c], or [n, items]."""
        scores = self.item_scores
        if candidates is None:
            return np.tile(scores, (len(histories), 1))
        return scores[candidates]

    def top_k(self, histories: Histories, k: int, *, mask_history: bool = True) -> Ranking:
        """The k most popular items, without those of the history; equals in catalogue order.

        Where fewer are left, items of the history stand last, with score −inf.
        """
        k = min(k, len(self.catalogue))
        order = np.argsort(-self.item_scores, kind="stable")
        items = np.empty((len(histories), k), dtype=np.int64)
        scores = np.empty((len(histories), k), dtype=np.float32)
        for row, history in enumerate(histories):
            first = order[: k + len(history)] if mask_history else order[:k]
            had = np.isin(first, history) & mask_history
            items[row] = np.concatenate([first[~had], np.sort(first[had])])[:k]
            scores[row] = np.where(
                np.isin(items[row], first[had]), -np.inf, self.item_scores[items[row]]
            )
        return Ranking(items, scores)

    @property
    def item_scores(self) -> NDArray[np.float32]:
        """[items] float32; items of one title share their count, so that they tie."""
        groups = self.catalogue.title_group
        summed = np.bincount(groups, weights=self.counts, minlength=len(groups))
        return summed[groups].astype(np.float32)
