"""Prompts for causal language models, joined at the level of ids.

A title is tokenised as ordinary text, with every `|` written `¦`; titles are joined by `||`,
which no title can then contain. So whatever titles say, a prompt has exactly the special tokens
and separators of its structure, and an answer is split where its titles end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from weft.data.domain import Catalogue, IntArray
from weft.errors import WeftError
from weft.text.assemble import Ragged
from weft.text.chat import chat_frame
from weft.text.items import TextSettings, item_texts, join
from weft.text.tokens import ItemTokens, plain_tokenizer, tokenize_items

SEPARATOR, BAR = "||", "¦"
Ids = NDArray[np.int32]


class PromptSettings(BaseModel):
    """How much of a history a prompt holds, and the chat it stands in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_tokens: int = Field(default=1200, ge=32, description="of the whole prompt")
    history_items: int | None = Field(default=None, ge=1, description="the most recent; none: all")
    chat_template: str | None = Field(
        default=None, description="the backbone's own; or chatml, a .jinja file, a template"
    )
    short: bool = Field(
        default=False, description="fewest words: for backbones that read titles only"
    )


@dataclass(frozen=True, eq=False)
class Prompts:
    """n prompts in ids, and how many items of each history were left out [n] int64."""

    ragged: Ragged
    history_cut: NDArray[np.int64]


def title_tokens(
    tokenizer: Any, titles: Catalogue | Sequence[str], settings: TextSettings
) -> ItemTokens:
    """The ids of a catalogue's item texts, or of titles of no catalogue."""
    if isinstance(titles, Catalogue):
        texts = item_texts(titles, settings)
    else:
        texts = [join((title,), settings.words) for title in titles]
    return tokenize_items(tokenizer, [t.replace("|", BAR) for t in texts], settings.tokens)


def canonical(tokenizer: Any, ids: IntArray) -> str:
    """The text that a title's ids are read back as."""
    return str(tokenizer.decode(ids.tolist(), skip_special_tokens=True)).strip()


def parse_answer(text: str) -> list[str]:
    """The titles of an answer, in order; empty ones are left out."""
    return [title for part in text.split(SEPARATOR) if (title := part.strip())]


def check_round_trip(tokenizer: Any, tokens: ItemTokens, titles: Sequence[str]) -> None:
    """A `WeftError` that names the first title of `titles` which its ids don't give back."""
    for row, title in enumerate(titles):
        text = join((title,), None).replace("|", BAR)
        if canonical(tokenizer, tokens.of(row)) != text:
            raise WeftError(
                f"the tokenizer reads the title '{title}' back as "
                f"'{canonical(tokenizer, tokens.of(row))}', so an answer can't be matched to it"
            )


SYSTEM = "You help a shop to tell what each of its customers will want next."
_HISTORY = "A customer has chosen these, the oldest first, divided by ||:\n"
_CANDIDATES = "\nThese are on offer, divided by ||:\n"
_FIVE = (
    "\nName the five of them that the customer is most likely to choose next, the likeliest "
    "first, in the very words above and divided by ||."
)
_NEXT = "\nName what the customer is most likely to choose next, by its title."
_LIKE = "\nWill the customer like this one?\n"
_YES_NO = "\nAnswer Yes or No."

_SHORT_SYSTEM = "recommend"
_SHORT = {_HISTORY: "", _CANDIDATES: "\n", _FIVE: "", _NEXT: "", _LIKE: "\n", _YES_NO: ""}


class _Words:
    """The fixed pieces of prompts of one tokenizer, in ids."""

    def __init__(self, tokenizer: Any, settings: PromptSettings) -> None:
        self._plain = plain_tokenizer(tokenizer)
        self._short = settings.short
        system = _SHORT_SYSTEM if settings.short else SYSTEM
        self.frame = chat_frame(tokenizer, system, settings.chat_template)
        self.separator = self.ids(SEPARATOR)
        if not len(self.separator):
            raise WeftError(f"the tokenizer {type(tokenizer).__name__} gives no token for '||'")

    def said(self, piece: str) -> Ids:
        return self.ids(_SHORT[piece] if self._short else piece)

    def ids(self, text: str) -> Ids:
        encoded = self._plain.encode(text, add_special_tokens=False).ids if text else []
        return np.array(encoded, dtype=np.int32)


class ListPrompt:
    """History and candidates in, titles out: WeaveRec's prompt, in our words.

    Without candidates it asks for the next title. `separator` and `end` are what follows a title
    of the answer.
    """

    def __init__(self, tokenizer: Any, settings: PromptSettings) -> None:
        self.settings = settings
        self._words = words = _Words(tokenizer, settings)
        self.separator: tuple[int, ...] = tuple(words.separator.tolist())
        self.end = words.frame.end
        self._before = np.concatenate([_array(words.frame.before), words.said(_HISTORY)])
        self._offer = words.said(_CANDIDATES)
        after = _array(words.frame.after)
        self._five = np.concatenate([words.said(_FIVE), after])
        self._next = np.concatenate([words.said(_NEXT), after])

    def prompts(
        self,
        tokens: ItemTokens,
        histories: Sequence[IntArray],
        candidates: IntArray | None,
        most: int | None = None,
    ) -> Prompts:
        """n prompts of at most `max_tokens` ids each, and at most `most` where that is given.

        `histories` are rows of `tokens`, oldest first; `candidates` [n, c] rows in the order to be
        shown. A history loses its oldest items, and the newest is cut short only if it alone is
        too long; frame and candidates are never cut: a `WeftError` says what they need.
        """
        return _fill(
            self._before,
            tokens,
            histories,
            [self._tail(tokens, candidates, row) for row in range(len(histories))],
            self._words.separator,
            _at_most(self.settings, most),
        )

    def _tail(self, tokens: ItemTokens, candidates: IntArray | None, row: int) -> Ids:
        if candidates is None:
            return self._next
        listed = candidates[row]
        empty = tokens.lengths[listed] == 0
        if empty.any():
            raise WeftError(f"candidate {int(listed[empty][0])} of prompt {row + 1} has no title")
        return np.concatenate(
            [self._offer, _joined(tokens, listed, self._words.separator), self._five]
        )

    def answers(self, tokens: ItemTokens, lists: Sequence[IntArray] | IntArray) -> Ragged:
        """Titles joined by the separator, then the end of the turn."""
        end = np.array([self.end], dtype=np.int32)
        rows = [np.concatenate([_joined(tokens, one, self._words.separator), end]) for one in lists]
        return _ragged(rows)


class YesNoPrompt:
    """History and one item in, Yes or No out: TALLRec's question, in our words."""

    def __init__(self, tokenizer: Any, settings: PromptSettings) -> None:
        self.settings = settings
        self._words = words = _Words(tokenizer, settings)
        self._before = np.concatenate([_array(words.frame.before), words.said(_HISTORY)])
        self._like = words.said(_LIKE)
        self._ask = np.concatenate([words.said(_YES_NO), _array(words.frame.after)])
        end = np.array([words.frame.end], dtype=np.int32)
        yes, no = words.ids("Yes"), words.ids("No")
        self.yes, self.no = int(yes[0]), int(no[0])
        if self.yes == self.no:
            raise WeftError("the tokenizer begins Yes and No with the same token")
        self.answers = (np.append(yes, end), np.append(no, end))

    def prefixes(
        self, tokens: ItemTokens, histories: Sequence[IntArray], most: int | None = None
    ) -> Prompts:
        """What all questions about a history begin with; the longest item still fits behind it."""
        tail = [self._like] * len(histories)
        whole = _at_most(self.settings, most)
        room = len(self._ask) + int(tokens.lengths.max(initial=0))
        left = whole.model_copy(update={"max_tokens": whole.max_tokens - room})
        return _fill(self._before, tokens, histories, tail, self._words.separator, left)

    def suffix(self, tokens: ItemTokens, item: int) -> Ids:
        """The item, the question and the assistant's header."""
        return np.concatenate([tokens.of(item), self._ask])


def _at_most(settings: PromptSettings, most: int | None) -> PromptSettings:
    if most is None or most >= settings.max_tokens:
        return settings
    return settings.model_copy(update={"max_tokens": most})


def _fill(
    before: Ids,
    tokens: ItemTokens,
    histories: Sequence[IntArray],
    tails: Sequence[Ids],
    separator: Ids,
    settings: PromptSettings,
) -> Prompts:
    """before, as much of each history as fits, tail."""
    lengths, gap = tokens.lengths, len(separator)
    rows: list[Ids] = []
    cut = np.zeros(len(histories), dtype=np.int64)
    for number, (history, tail) in enumerate(zip(histories, tails, strict=True)):
        room = settings.max_tokens - len(before) - len(tail)
        if room < 0:
            raise WeftError(
                f"prompt {number + 1} needs {len(before) + len(tail)} tokens for its candidates "
                f"and question, and at most {settings.max_tokens} are allowed; candidates are "
                "never cut: raise recommender.prompt.max_tokens, or shorten titles with "
                "recommender.text"
            )
        told = np.asarray(history, dtype=np.int64)
        told = told[lengths[told] > 0]
        recent = told[-settings.history_items :] if settings.history_items else told
        needs = np.cumsum(lengths[recent[::-1]] + gap) - gap
        fits = int(np.searchsorted(needs, room, side="right"))
        kept = recent[len(recent) - fits :]
        body = _joined(tokens, kept, separator)
        if not fits and len(recent) and room:
            body = tokens.of(int(recent[-1]))[:room]
            fits = 1
        cut[number] = len(told) - fits
        rows.append(np.concatenate([before, body, tail]))
    return Prompts(_ragged(rows), cut)


def _joined(tokens: ItemTokens, items: IntArray, separator: Ids) -> Ids:
    """The items' ids with the separator between them."""
    pieces: list[Ids] = []
    for item in items.tolist():
        pieces += [tokens.of(item), separator]
    return np.concatenate(pieces[:-1]) if pieces else np.empty(0, dtype=np.int32)


def _ragged(rows: Sequence[Ids]) -> Ragged:
    offsets = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    ids = np.concatenate(rows) if rows else np.empty(0, dtype=np.int32)
    return Ragged(offsets, ids.astype(np.int32))


def _array(ids: Sequence[int]) -> Ids:
    return np.array(ids, dtype=np.int32)
