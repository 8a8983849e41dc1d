"""What every recommender of texts has: the catalogue that it ranks, and its items' tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from weft.data.domain import Catalogue, IntArray
from weft.errors import WeftError
from weft.recommenders.protocol import Histories, Ranking, best
from weft.text import ItemTokens


class Catalogued(ABC):
    """A recommender over one catalogue at a time.

    `on_scored` is called while it scores, with the texts or users that were just read (see
    `reading`): a person waits.
    """

    def __init__(self, catalogue: Catalogue | None) -> None:
        self._catalogue = catalogue
        self.on_scored: Callable[[float], None] | None = None
        self._tokens: dict[int, tuple[Catalogue, ItemTokens]] = {}

    @property
    def catalogue(self) -> Catalogue:
        if self._catalogue is None:
            raise WeftError(
                "this recommender was made without a catalogue; name one to score items"
            )
        return self._catalogue

    def use(self, catalogue: Catalogue) -> None:
        """Score this catalogue from now on."""
        self._catalogue = catalogue

    def tokens(self, catalogue: Catalogue) -> ItemTokens:
        """The catalogue's item tokens, made once for each catalogue."""
        known = self._tokens.get(id(catalogue))
        if known is None:
            known = self._tokens[id(catalogue)] = (catalogue, self._tokenize(catalogue))
        return known[1]

    def reading(self, users: int) -> tuple[int, str]:
        """(how much there is to read for so many users, its unit)."""
        return users, "users"

    def _scored(self, count: float) -> None:
        """So much was read."""
        if self.on_scored is not None:
            self.on_scored(count)

    @abstractmethod
    def _tokenize(self, catalogue: Catalogue) -> ItemTokens:
        """Tokens of every item, in the catalogue's order."""

    @abstractmethod
    def score(
        self, histories: Histories, candidates: IntArray | None = None
    ) -> NDArray[np.float32]:
        """[n, c] for `candidates` [n, c], or [n, items] without them; higher is better."""

    def top_k(self, histories: Histories, k: int, *, mask_history: bool = True) -> Ranking:
        """The k best items of the catalogue for each history."""
        return best(self.score(histories), k, histories if mask_history else None)


def by_length(lengths: IntArray, most: int) -> Iterator[IntArray]:
    """All rows, shortest first, in runs that take at most `most` tokens when padded; at least one."""
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * lengths[order[stop]] <= most:
            stop += 1
        yield order[start:stop]
        start = stop


def told(histories: Sequence[Sequence[str]]) -> tuple[list[str], list[NDArray[np.int64]]]:
    """All titles of the histories in one list, and each history as rows of it."""
    flat = [title for history in histories for title in history]
    ends = np.cumsum([len(history) for history in histories], dtype=np.int64)
    return flat, np.split(np.arange(len(flat)), ends[:-1]) if len(histories) else []
