"""What the entries of a history stand for: item ids, titles, or text of no item."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from weft.data.domain import Catalogue
from weft.errors import DataError
from weft.text.cleaning import clean_text

Matched = Literal["item", "title", "text", "nothing"]


@dataclass(frozen=True)
class Match:
    """One entry of a history: an item's id, a title, text to be read as it is, or nothing, in which
    case it takes no part. `item_id` and `title` are the item's; `others` counts further items that
    the entry is the title of."""

    entry: str
    matched: Matched
    item_id: str | None = None
    title: str | None = None
    others: int = 0

    @property
    def text(self) -> str:
        """What a recommender reads of it; empty where there is nothing to read."""
        if self.matched in ("item", "title"):
            return self.title or ""
        return self.entry if self.matched == "text" else ""

    def described(self) -> str:
        """One sentence for people."""
        quoted = f"'{self.entry}'"
        match self.matched:
            case "item":
                title = f": {self.title}" if self.title and self.title.strip() else " (no title)"
                also = f"; {self.others} others have it as title" if self.others else ""
                return f"{quoted} is an item{title}{also}"
            case "title":
                also = f" and of {self.others} others" if self.others else ""
                return f"{quoted} is the title of item {self.item_id}{also}"
            case "text":
                return f"{quoted} is neither an item id nor a title: read as text"
            case "nothing":
                return f"{quoted} is neither an item id nor a title: left out"


class Matcher:
    """Finds what entries stand for in a catalogue, and what it has not in `beside`: the one that a
    recommender was trained on, where it ranks another."""

    def __init__(self, catalogue: Catalogue, beside: Catalogue | None = None) -> None:
        self.catalogue = catalogue
        self.beside = None if beside is None else Matcher(beside)

    @cached_property
    def _exact(self) -> dict[str, list[int]]:
        return _rows_of(self.catalogue.titles)

    @cached_property
    def _normalised(self) -> dict[str, list[int]]:
        return _rows_of([_key(title) for title in self.catalogue.titles])

    def match(self, entry: str, *, as_text: bool, reads_text: bool) -> Match:
        """An id before a title, an exact title before one that differs in case, spaces or
        invisible characters; what is neither is text, unless it looks like an id of this
        catalogue (and not `as_text`) or nobody `reads_text`."""
        match = self._find(entry) or (self.beside and self.beside._find(entry))
        if match:
            return match
        alike = self.looks_like_id(entry.strip())
        if self.beside is not None:
            alike = alike or self.beside.looks_like_id(entry.strip())
        return Match(entry, "nothing" if not reads_text or (alike and not as_text) else "text")

    def _find(self, entry: str) -> Match | None:
        index, titles = self.catalogue.index, self.catalogue.titles
        known = next((one for one in (entry, entry.strip()) if one in index), None)
        if known is not None:
            row = index[known]
            others = [r for r in self._exact.get(entry, []) if r != row]
            return Match(entry, "item", known, titles[row], len(others))
        rows = self._exact.get(entry) or self._normalised.get(_key(entry)) or []
        if rows:
            ids = self.catalogue.item_ids
            return Match(entry, "title", ids[rows[0]], titles[rows[0]], len(rows) - 1)
        return None

    def looks_like_id(self, entry: str) -> bool:
        """Whether an entry is built as this catalogue's ids are: no space, a digit, characters of
        the same kinds, about as long. Ids without digits are words: nothing looks like them."""
        lengths, kinds, digits = self._shape
        if not lengths[0] <= len(entry) <= lengths[1]:
            return False
        here = _kinds(entry)
        return digits and "9" in here and here <= kinds and not any(c.isspace() for c in entry)

    @cached_property
    def _shape(self) -> tuple[tuple[int, int], frozenset[str], bool]:
        """(shortest and longest length allowed, kinds of characters, whether most have a digit)."""
        ids = self.catalogue.item_ids
        kinds: Counter[str] = Counter(kind for one in ids for kind in _kinds(one))
        usual = frozenset(kind for kind, count in kinds.items() if count >= 0.01 * len(ids))
        lengths = [len(one) for one in ids] or [0]
        return (min(lengths), max(lengths) + 2), usual, 2 * kinds["9"] > len(ids)


def _kinds(text: str) -> frozenset[str]:
    """Letters by case, digits as one kind, every other character by itself."""
    return frozenset(
        "9" if c.isdigit() else ("A" if c.isupper() else "a") if c.isalpha() else c for c in text
    )


def _rows_of(titles: Sequence[str]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row, title in enumerate(titles):
        if title.strip():
            rows.setdefault(title, []).append(row)
    return rows


def _key(title: str) -> str:
    return clean_text(title).casefold()


def check_histories(histories: Sequence[Sequence[str]]) -> None:
    """Raise `DataError` unless these are lists of entries that are not empty."""
    if isinstance(histories, str):
        raise DataError("recommend takes a list of histories, each a list of titles, not a string")
    for number, history in enumerate(histories, start=1):
        if isinstance(history, str) or not isinstance(history, Iterable):
            kind = type(history).__name__
            raise DataError(f"history {number} must be a list of titles, not a {kind}: {history!r}")
        for place, entry in enumerate(history, start=1):
            if not isinstance(entry, str):
                kind = type(entry).__name__
                raise DataError(f"history {number} must hold titles, not a {kind}: {entry!r}")
            if not clean_text(entry):
                raise DataError(
                    f"history {number}: entry {place} is empty; give a title or an item id, or "
                    "leave it out"
                )
