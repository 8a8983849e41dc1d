"""Asking a recommender in item ids and titles, and answering in items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from weft.data.domain import Catalogue
from weft.errors import NotFoundError, SettingError, notice
from weft.recommenders.contract import Recommender
from weft.recommenders.item_counts import FILE as COUNTS
from weft.recommenders.item_counts import ItemCounts, load_item_counts
from weft.recommenders.matching import Match, Matcher, check_histories
from weft.recommenders.ranking import best


@dataclass(frozen=True)
class Suggestion:
    """One recommended item."""

    item_id: str
    title: str
    score: float


@dataclass(frozen=True)
class Answer:
    """What is suggested for one history, best first, and on which ground.

    `basis` is "popularity" where the history has nothing to read, or the recommender reads none:
    scores are then numbers of interactions. `notes` are sentences for people.
    """

    suggestions: list[Suggestion]
    history: list[Match]
    basis: Literal["history", "popularity"]
    notes: list[str]


class LoadedRecommender:
    """A recommender from a folder, asked in titles or item ids and answering in items."""

    def __init__(
        self,
        recommender: Recommender,
        split: str | Mapping[str, Any] = "leave_one_out",
        *,
        folder: Path | None = None,
        beside: Catalogue | None = None,
    ) -> None:
        self.recommender = recommender
        self.split = split  # under which it was trained: other splits may test what it has seen
        self.folder = folder  # that has popularity.parquet, where it has one
        self.beside = beside  # whose items may stand in histories, though another one is ranked

    @property
    def catalogue(self) -> Catalogue:
        return self.recommender.catalogue

    def use(self, catalogue: Catalogue) -> None:
        """Score this catalogue from now on."""
        self.recommender.use(catalogue)

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        *,
        mask_history: bool = True,
        as_text: bool = False,
    ) -> list[list[Suggestion]]:
        """The k best items for each history of titles or item ids, oldest first; new users and
        batches alike. `ask` returns more; entries that are left out are a `WeftNotice`.

        >>> from weft.data.mall import mall
        >>> from weft.data.splits import leave_one_out
        >>> from weft.recommenders.sequential.popularity import Popularity
        >>> train = leave_one_out(mall(users=40, items=30)["home"]).train
        >>> loaded = LoadedRecommender(Popularity.of(train))
        >>> [one] = loaded.recommend([[train.domain.items.titles[0]]], k=2)
        >>> [round(suggestion.score) for suggestion in one]
        [15, 13]
        """
        answers = self.ask(histories, k, mask_history=mask_history, as_text=as_text)
        for number, answer in enumerate(answers, start=1):
            for one in answer.history:
                if one.matched == "nothing" and self.recommender.reads_history:
                    reads = " (as_text=True reads it)" if self.recommender.reads_text else ""
                    notice(f"history {number}: {one.described()}{reads}")
        return [answer.suggestions for answer in answers]

    def ask(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        *,
        mask_history: bool = True,
        as_text: bool = False,
    ) -> list[Answer]:
        """The k best items for each history, what its entries stand for, and on which ground.

        An entry that is an item's id or title stands for that item: for its title, and where the
        recommender reads more of items and the whole history is of items, for all that it reads.
        One that is neither an id nor a title is read as text; but if it looks like an id it is left
        out, unless `as_text`. A history of none but such ids is a `WeftError`; so is an empty
        entry. A history with nothing to read gets what was popular lately, if the folder knows
        that. Items without any text that the recommender reads are never suggested for a history.
        """
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise SettingError(f"k must be a whole number of at least 1, not {k}")
        check_histories(histories)
        reads = {"as_text": as_text, "reads_text": self.recommender.reads_text}
        matched = [[self._matcher.match(one, **reads) for one in history] for history in histories]
        readable: list[int] = []
        if self.recommender.reads_history:
            for number, history in enumerate(matched, start=1):
                self._check_known(number, history)
            readable = [i for i, history in enumerate(matched) if any(map(self._reads, history))]
        answers = dict(
            zip(
                readable,
                self._by_history([matched[i] for i in readable], k, mask_history),
                strict=True,
            )
        )
        for i, history in enumerate(matched):
            if i not in answers:
                answers[i] = self._by_popularity(i + 1, history, k, mask_history)
        return [answers[i] for i in range(len(matched))]

    def _reads(self, entry: Match) -> bool:
        """Whether the recommender can go by an entry: by its text, or by the item that it is."""
        if self.recommender.reads_text:
            return bool(entry.text.strip())
        return entry.item_id in self.catalogue.index

    @cached_property
    def _matcher(self) -> Matcher:
        return Matcher(self.catalogue, self.beside)

    def _by_history(
        self, histories: Sequence[Sequence[Match]], k: int, mask_history: bool
    ) -> list[Answer]:
        """By the recommender itself, out of the items, titles and texts that there are."""
        if not histories:
            return []
        unread = self.recommender.unread_items()
        most = min(k + int(unread.sum()), len(self.catalogue))
        answers = []
        for history, (items, scores) in zip(
            histories, self._ranked(histories, most, mask_history), strict=True
        ):
            suggested = ~unread[items] & ~np.isneginf(scores)
            suggestions = _suggestions(self.catalogue, items[suggested][:k], scores[suggested][:k])
            notes = _shortfall(self.catalogue, history, k, len(suggestions), mask_history)
            if self.recommender.reads_text and any(one.matched == "nothing" for one in history):
                notes.append(
                    "what looks like an item id is no text: --as-text (as_text=True) reads it"
                )
            if unread.any():
                notes.append(
                    f"{int(unread.sum()):,} of {len(unread):,} items have no title, so nothing "
                    "is known of them: they are left out"
                )
            notes += self.recommender.notes
            if self.recommender.about:
                notes.append(self.recommender.about)
            answers.append(Answer(suggestions, list(history), "history", notes))
        return answers

    def _ranked(
        self, histories: Sequence[Sequence[Match]], k: int, mask_history: bool
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """(items, scores), best first, for each history.

        A recommender that reads more of an item than its title does so for histories of items of
        the catalogue, as in training; others are read by titles and texts.
        """
        index = self.catalogue.index
        readable = [[one for one in history if self._reads(one)] for history in histories]
        by_item = [
            self.recommender.reads_whole_items and all(one.item_id in index for one in history)
            for history in readable
        ]
        texts = [
            [one.text for one in history]
            for history, known in zip(readable, by_item, strict=True)
            if not known
        ]
        by_title: Iterator[Any] = iter(())
        if texts:
            ranking = self.recommender.top_k_of_titles(texts, k, mask_history=mask_history)
            by_title = iter(zip(ranking.items, ranking.scores, strict=True))
        for history, entries, known in zip(histories, readable, by_item, strict=True):
            if not known:
                yield next(by_title)
                continue
            rows = [index[one.item_id] for one in entries if one.item_id is not None]
            scores = self.recommender.score([np.array(rows, dtype=np.int64)])
            masked = [_rows(self.catalogue, history)] if mask_history else None
            ranking = best(scores, k, masked)
            yield ranking.items[0], ranking.scores[0]

    def _by_popularity(
        self, number: int, history: Sequence[Match], k: int, mask_history: bool
    ) -> Answer:
        """What was taken most lately, or, by a recommender that is popularity, most of all."""
        if not self.recommender.reads_history:
            scores = self.recommender.score([np.empty(0, dtype=np.int64)])[0]
            order = np.argsort(-scores, kind="stable")
            ground = self.recommender.about
            return _popular(self.catalogue, scores, order, ground, history, k, mask_history)
        if self._counts is None:
            why = "has no item with a title" if history else "is empty"
            raise NotFoundError(
                f"history {number} {why}, and {self.folder or 'this recommender'} does not know "
                f"what is popular (it has no {COUNTS}): history {number} needs at least one title "
                "or item id"
            )
        why = "the history has nothing to read" if history else "the history is empty"
        return popular_answer(self._counts, k, history, mask_history=mask_history, why=why)

    def _check_known(self, number: int, history: Sequence[Match]) -> None:
        """Refuse a history of none but entries that nobody knows: nothing is left to go by."""
        lost = [one.entry for one in history if one.matched == "nothing"]
        if not lost or len(lost) < len(history):
            return
        if not self.recommender.reads_text:
            raise NotFoundError(
                f"history {number}: '{lost[0]}' is no item of the catalogue, by id or title, and this "
                "recommender reads no other text"
            )
        raise NotFoundError(
            f"history {number}: '{lost[0]}' looks like an item id, and the catalogue has neither "
            "such an item nor such a title; take an id or title that is there, or use --as-text (as_text=True) "
            "to have it read as a text"
        )

    @cached_property
    def _counts(self) -> ItemCounts | None:
        return None if self.folder is None else load_item_counts(self.folder, self.catalogue)


def popular_answer(
    counts: ItemCounts,
    k: int,
    history: Sequence[Match] = (),
    *,
    mask_history: bool = True,
    why: str = "the history is empty",
) -> Answer:
    """The k items that were taken most lately in training."""
    ground = f"{why}: these are the items taken most {_lately(counts)}"
    order = counts.order()
    return _popular(counts.catalogue, counts.recent, order, ground, history, k, mask_history)


def _popular(
    catalogue: Catalogue,
    scores: NDArray[Any],
    order: NDArray[np.int64],
    ground: str,
    history: Sequence[Match],
    k: int,
    mask_history: bool,
) -> Answer:
    if mask_history and history:
        order = order[~np.isin(order, _rows(catalogue, history))]
    suggestions = _suggestions(catalogue, order[:k], scores[order[:k]])
    notes = [ground, *_shortfall(catalogue, history, k, len(suggestions), mask_history)]
    return Answer(suggestions, list(history), "popularity", notes)


def _rows(catalogue: Catalogue, history: Sequence[Match]) -> NDArray[np.int64]:
    """The items of a history, and all others of their titles."""
    ids = [one.item_id for one in history if one.item_id is not None]
    rows = [catalogue.index[one] for one in ids if one in catalogue.index]
    groups = catalogue.title_group
    return np.flatnonzero(np.isin(groups, groups[np.array(rows, dtype=np.int64)]))


def _suggestions(
    catalogue: Catalogue, items: NDArray[np.int64], scores: NDArray[Any]
) -> list[Suggestion]:
    ids, titles = catalogue.item_ids, catalogue.titles
    return [
        Suggestion(ids[item], titles[item], float(score))
        for item, score in zip(items.tolist(), scores, strict=True)
    ]


def _shortfall(
    catalogue: Catalogue, history: Sequence[Match], k: int, count: int, mask_history: bool
) -> list[str]:
    """A sentence where fewer are suggested than were asked for."""
    if count >= k:
        return []
    masked = " beside those of the history" if history and mask_history else ""
    of = f"a catalogue of {len(catalogue):,}"
    return [f"{k:,} items were asked for, and {of} has {count:,} to suggest{masked}"]


def _lately(counts: ItemCounts) -> str:
    if counts.since is None:
        return "in training (the log has no times)"
    day = datetime.fromtimestamp(counts.since, UTC).date()
    return f"in training since {day}"


def popular_of(folder: Path, catalogue: Catalogue) -> ItemCounts:
    """The counts beside a recommender, before anything else of it is read.

    Raises `WeftError` where its folder has none.
    """
    counts = load_item_counts(folder, catalogue)
    if counts is None:
        raise NotFoundError(
            f"{folder} does not know what is popular (it has no {COUNTS}), so a history needs at "
            "least one title or item id: --history"
        )
    return counts
