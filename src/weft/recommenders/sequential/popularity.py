"""The floor: everyone is offered what was bought most. Nothing is learned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from weft.artifacts.hashing import hash_arrays
from weft.data.domain import Catalogue, Examples, IntArray
from weft.errors import NotFoundError, SettingError
from weft.recommenders.contract import Histories, Recommender, RecommenderSettings
from weft.recommenders.item_counts import FILE, ItemCounts, load_item_counts
from weft.recommenders.ranking import Ranking


class PopularitySettings(RecommenderSettings):
    """There is nothing to set."""

    kind: Literal["popularity"] = "popularity"


class Popularity(Recommender):
    """Scores every item by its number of training interactions, whatever the history.

    >>> import polars as pl
    >>> frame = pl.DataFrame({"item_id": ["a", "b", "c"], "title": ["mug", "lamp", "rug"]})
    >>> floor = Popularity(PopularitySettings(), Catalogue(frame))
    >>> floor.counts = np.array([3, 9, 4])
    >>> floor.score([np.array([0]), np.array([1, 2])])
    array([[3., 9., 4.],
           [3., 9., 4.]], dtype=float32)
    >>> floor.top_k([np.array([1])], k=2).items
    array([[2, 0]])
    """

    settings_type = PopularitySettings
    reads_history = False
    about = "this recommender suggests what was taken most, whatever the history"
    files = (FILE,)

    def __init__(
        self,
        settings: PopularitySettings | None = None,
        catalogue: Catalogue | None = None,
        counts: ItemCounts | None = None,
    ) -> None:
        super().__init__(settings or PopularitySettings(), catalogue)
        self._counts = counts

    @classmethod
    def of(cls, train: Examples) -> Popularity:
        """Counts what the training part of a split sees, the whole of it."""
        floor = cls()
        floor.prepare([train])
        return floor

    def prepare(self, train: Sequence[Examples]) -> None:
        """Count; one domain's training part."""
        if len(train) != 1:
            raise SettingError(f"popularity counts one domain's interactions, not {len(train)}")
        self._counts = ItemCounts.of(train[0])
        self._catalogue = train[0].domain.items

    @property
    def item_counts(self) -> ItemCounts:
        """The interactions of each item of the catalogue; a `WeftError` before they are counted."""
        if self._counts is None:
            raise SettingError("nothing was counted yet: prepare([split.train]) first")
        return self._counts

    @property
    def counts(self) -> NDArray[np.int64]:
        """[items] training interactions."""
        return self.item_counts.interactions

    @counts.setter
    def counts(self, counts: NDArray[np.int64]) -> None:
        self._counts = ItemCounts(self.catalogue, counts, counts)

    @property
    def weights_hash(self) -> str:
        return hash_arrays({"counts": self.counts}, self.catalogue.item_ids)

    def use(self, catalogue: Catalogue) -> None:
        """Score this catalogue from now on: an item's count stays its own, by its id."""
        self._counts = self.item_counts.on(catalogue)
        self._catalogue = catalogue

    def score(
        self, histories: Histories, candidates: IntArray | None = None
    ) -> NDArray[np.float32]:
        """[n, c] for `candidates` [n, c], or [n, items]."""
        scores = self.item_scores
        self._has_read("histories", len(histories), len(histories))
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

    def write_files(self, folder: Path) -> None:
        self.item_counts.save(folder)

    def read_files(self, folder: Path) -> None:
        counts = load_item_counts(folder, self.catalogue)
        if counts is None:
            raise NotFoundError(
                f"{folder / FILE} does not exist, and a popularity recommender is that"
            )
        self._counts = counts
