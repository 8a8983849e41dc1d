"""A history and one candidate as one text, joined at the level of ids (X-Cross, §3.1.2, Figure 1).

    History:
    1: oldest title
    2: next title
    Candidate:
    title

A title is tokenised by itself as ordinary text, so it stays in its own line, whatever is in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from weft.data.domain import IntArray
from weft.errors import SettingError
from weft.settings import StrictModel
from weft.text.inputs import Structure
from weft.text.tokens import ItemTokens, plain_tokenizer

Ids = NDArray[np.int32]


class PairSettings(StrictModel):
    """How much of a history a prompt holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_tokens: int = Field(default=512, ge=16, description="of the whole prompt")
    history_items: int = Field(default=15, ge=1, description="at most this many, the most recent")


class PairPrompt:
    """The prompt of one tokenizer. Histories are listed oldest first and numbered from 1."""

    def __init__(self, tokenizer: Any, settings: PairSettings) -> None:
        self.settings = settings
        self._plain = plain_tokenizer(tokenizer)
        frame = Structure.for_tokenizer(tokenizer)
        self._start = np.concatenate([_array(frame.prefix), self._ids("History:")])
        self._offer = self._ids("\nCandidate:\n")
        self._end = _array(frame.suffix)
        self._numbers = [self._ids(f"\n{n}: ") for n in range(1, settings.history_items + 1)]
        first = tokenizer.cls_token_id  # not any token in front: a causal model's sees nothing
        self.framed = first is not None and first in frame.prefix

    def _ids(self, text: str) -> Ids:
        return _array(self._plain.encode(text, add_special_tokens=False).ids)

    def history(self, tokens: ItemTokens, history: IntArray, longest: int) -> Ids:
        """What all prompts of a history begin with, so short that a candidate of `longest` ids still
        fits: the oldest items go first, and the newest is cut only if it alone is too long.

        Items without tokens are skipped. Raises a `SettingError` if no room is left for the history.
        """
        items = np.asarray(history, dtype=np.int64)
        items = items[tokens.lengths[items] > 0][-self.settings.history_items :]
        fixed = len(self._start) + len(self._offer) + len(self._end) + longest
        room = self.settings.max_tokens - fixed
        if room < 1:
            raise SettingError(
                f"a prompt needs {fixed} tokens for its candidate, and at most "
                f"{self.settings.max_tokens} are allowed: raise recommender.prompt.max_tokens, or "
                "shorten titles with recommender.text"
            )
        while len(items) > 1 and self._needs(tokens, items) > room:
            items = items[1:]
        pieces = [self._start]
        for number, item in zip(self._numbers, items.tolist(), strict=False):
            pieces += [number, tokens.of(item)]
        return np.concatenate([np.concatenate(pieces)[: len(self._start) + room], self._offer])

    def _needs(self, tokens: ItemTokens, items: NDArray[np.int64]) -> int:
        return int(tokens.lengths[items].sum()) + sum(map(len, self._numbers[: len(items)]))

    def prompts(self, history: Ids, tokens: ItemTokens, items: IntArray) -> list[Ids]:
        """One prompt for each candidate, rows of `tokens`, behind what `history` gave."""
        return [
            np.concatenate([history, tokens.of(item), self._end])
            for item in np.asarray(items).tolist()
        ]


def _array(ids: Sequence[int]) -> Ids:
    return np.array(ids, dtype=np.int32)
