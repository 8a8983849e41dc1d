"""Catalogues as text to read: titles, and lists of titles that share a category or brand.

No interaction is looked at. A document is a list of titles, or the same list as a dialogue: the
last title is the answer to a prompt whose history is the others (`ListPrompt`), with or without
a list of candidates. The dialogues teach a model that has read nothing else what a prompt is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, model_validator

from weft.artifacts.hashing import hash_json
from weft.data.domain import Catalogue
from weft.errors import DataError
from weft.settings import StrictModel
from weft.text.inputs import Ragged
from weft.text.prompt import ListPrompt
from weft.text.tokens import ItemTokens

IntRows = NDArray[np.int64]


class CorpusSettings(StrictModel):
    """What the text is made of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fields: tuple[str, ...] = Field(default=("category", "brand"), description="lists share one")
    title_tokens: int = Field(default=16, ge=1, description="of a title at most")
    longest: int = Field(default=10, ge=2, description="titles in a list")
    dialogues: float = Field(default=0.5, ge=0, le=1, description="share of the lists")
    listed: float = Field(default=0.3, ge=0, le=1, description="of these, with candidates")
    candidates: tuple[int, int] = Field(default=(4, 20), description="fewest, most shown")
    held_out: float = Field(default=0.02, gt=0, lt=0.5, description="share of the titles")

    @model_validator(mode="after")
    def _ordered(self) -> CorpusSettings:
        if not 2 <= self.candidates[0] <= self.candidates[1]:
            raise ValueError(f"candidates {list(self.candidates)}: from at least 2 to no fewer")
        return self


@dataclass(frozen=True, eq=False)
class Shelves:
    """The distinct titles of several catalogues, and which of them stand together.

    A title that several catalogues have is kept once, with the first one's fields.
    """

    titles: list[str]
    catalogue: IntRows  # [titles] which catalogue
    groups: dict[str, list[IntRows]]  # field -> rows of each group of one value in one catalogue

    @classmethod
    def of(cls, catalogues: Sequence[Catalogue], fields: Sequence[str]) -> Shelves:
        """The shelves of catalogues, grouped by the values of `fields`; a `DataError` where there
        is no title."""
        seen: set[str] = set()
        titles: list[str] = []
        source: list[int] = []
        members: dict[str, dict[tuple[int, str], list[int]]] = {field: {} for field in fields}
        for number, one in enumerate(catalogues):
            there = [field for field in fields if field in one.frame.columns]
            columns = [one.frame[field].to_list() for field in there]
            for row, title in enumerate(one.titles):
                key = title.strip().casefold()
                if not key or key in seen:
                    continue
                seen.add(key)
                for field, column in zip(there, columns, strict=True):
                    if value := str(column[row] or "").strip():
                        members[field].setdefault((number, value), []).append(len(titles))
                titles.append(title)
                source.append(number)
        if not titles:
            raise DataError("the catalogues hold no titles to read")
        groups = {f: [np.array(rows) for rows in by.values()] for f, by in members.items()}
        return cls(titles, np.array(source), groups)

    def restrict(self, keep: NDArray[np.bool_]) -> Shelves:
        """The same shelves with the groups' members that `keep` [titles] marks, and no others."""
        groups = {
            field: [rows[keep[rows]] for rows in by if keep[rows].any()]
            for field, by in self.groups.items()
        }
        catalogue: IntRows = np.where(keep, self.catalogue, -1)
        return Shelves(self.titles, catalogue, groups)

    @cached_property
    def hash(self) -> str:
        """A hash of titles and groups."""
        rows = {field: [one.tolist() for one in by] for field, by in self.groups.items()}
        return hash_json([self.titles, self.catalogue.tolist(), rows])


def held_out(titles: Sequence[str], share: float, seed: int) -> NDArray[np.bool_]:
    """[titles] bool: the titles kept for validation, each drawn by its own hash."""
    keys = [
        int(hash_json([seed, "held out", title.strip().casefold()])[:12], 16) for title in titles
    ]
    out: NDArray[np.bool_] = np.array(keys) < share * 16**12
    return out


@dataclass(frozen=True, eq=False)
class Corpus:
    """Documents out of shelves whose titles are `tokens`; a pass reads every title at least once."""

    shelves: Shelves
    tokens: ItemTokens
    prompt: ListPrompt
    settings: CorpusSettings
    end_of_text: int

    def blocks(self, length: int, count: int | None, seed: int) -> NDArray[np.int32]:
        """[n, length] int32: documents one after the other, cut into blocks.

        `count` blocks, by as many passes as they take; None: the whole blocks of one pass.
        """
        pieces: list[NDArray[np.int32]] = []
        have, number = 0, 0
        while number == 0 or (count is not None and have < count * length):
            for document in self.documents(seed, number):
                pieces.append(document)
                have += len(document)
            number += 1
        ids = np.concatenate(pieces)
        n = len(ids) // length if count is None else count
        return ids[: n * length].reshape(n, length)

    def documents(self, seed: int, number: int) -> Iterator[NDArray[np.int32]]:
        """Every document of one pass, in random order: decided by the seed and the pass's number."""
        random = np.random.Generator(np.random.PCG64([seed, number]))
        lists = self._lists(random)
        kinds = random.random(len(lists))
        settings = self.settings
        as_dialogue = [
            len(rows) > 1 and kind < settings.dialogues
            for rows, kind in zip(lists, kinds, strict=True)
        ]
        with_candidates = [
            dialogue and kind < settings.dialogues * settings.listed
            for dialogue, kind in zip(as_dialogue, kinds, strict=True)
        ]
        for rows, dialogue, listed in zip(lists, as_dialogue, with_candidates, strict=True):
            yield self._dialogue(rows, listed, random) if dialogue else self._plain(rows)

    def _lists(self, random: np.random.Generator) -> list[IntRows]:
        """Each group in random order, cut into lists; titles of no group alone; all shuffled."""
        lists: list[IntRows] = []
        placed = np.zeros(len(self.shelves.titles), dtype=bool)
        for groups in self.shelves.groups.values():
            for group in groups:
                placed[group] = True
                rows = random.permutation(group)
                start = 0
                while start < len(rows):
                    size = int(random.integers(2, self.settings.longest + 1))
                    lists.append(rows[start : start + size])
                    start += size
        alone = np.flatnonzero(~placed & (self.shelves.catalogue >= 0))
        lists.extend(alone[:, None])
        return [lists[i] for i in random.permutation(len(lists))]

    def _plain(self, rows: IntRows) -> NDArray[np.int32]:
        answer = self.prompt.answers(self.tokens, [rows])
        return np.append(
            answer.of(0)[:-1], np.int32(self.end_of_text)
        )  # in place of the turn's end

    def _dialogue(
        self, rows: IntRows, listed: bool, random: np.random.Generator
    ) -> NDArray[np.int32]:
        candidates = None
        if listed:
            same = self._of_catalogue(int(self.shelves.catalogue[rows[0]]))
            few, many = self.settings.candidates
            drawn = random.choice(same, size=int(random.integers(few, many + 1)) - 1)
            mixed = np.unique(np.append(drawn[~np.isin(drawn, rows)], rows[-1]))
            candidates = random.permutation(mixed)[None, :]
        prompt: Ragged = self.prompt.prompts(self.tokens, [rows[:-1]], candidates).ragged
        answer = self.prompt.answers(self.tokens, [rows[-1:]])
        end = np.array([self.end_of_text], dtype=np.int32)
        return np.concatenate([prompt.of(0), answer.of(0), end])

    def _of_catalogue(self, number: int) -> IntRows:
        known = self._rows_of.get(number)
        if known is None:
            known = self._rows_of[number] = np.flatnonzero(self.shelves.catalogue == number)
        return known

    @cached_property
    def _rows_of(self) -> dict[int, IntRows]:
        return {}
