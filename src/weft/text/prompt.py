"""Prompts for causal language models, joined at the level of ids.

A title is tokenised as ordinary text, with every `|` written `¦`; titles are joined by `||`,
which no title can then contain. So a prompt has, whatever is in a title, exactly the special tokens
and separators of its structure, and an answer is split where its titles end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, field_validator

from weft.data.domain import Catalogue, IntArray
from weft.errors import DataError, MismatchError, SettingError
from weft.settings import StrictModel, field_errors
from weft.text.chat import chat_frame, template_file
from weft.text.inputs import Ragged, ragged
from weft.text.items import TextSettings, item_texts, join
from weft.text.tokens import ItemTokens, plain_tokenizer, tokenize_items

SEPARATOR, BAR = "||", "¦"
Ids = NDArray[np.int32]


class PromptSettings(StrictModel):
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

    @field_validator("chat_template")
    @classmethod
    def _read(cls, value: str | None) -> str | None:
        """A file's text in place of its path, so that its content counts and not where it lies."""
        if value is None or not value.endswith(".jinja"):
            return value
        with field_errors():
            return template_file(Path(value))


@dataclass(frozen=True, eq=False)
class Prompts:
    """n prompts in ids, and how many items of each history did not fit whole [n] int64, out of those
    that `history_items` lets in."""

    ragged: Ragged
    history_cut: NDArray[np.int64]


def title_tokens(
    tokenizer: Any, titles: Catalogue | Sequence[str], settings: TextSettings
) -> ItemTokens:
    """The ids of a catalogue's item texts, or of titles of no catalogue."""
    return tokenize_items(tokenizer, _texts(titles, settings), settings.tokens)


def _texts(titles: Catalogue | Sequence[str], settings: TextSettings) -> list[str]:
    if isinstance(titles, Catalogue):
        texts = item_texts(titles, settings)
    else:
        texts = [join((title,), settings.words) for title in titles]
    return [text.replace("|", BAR) for text in texts]


def canonical(tokenizer: Any, ids: IntArray) -> str:
    """The text that a title's ids are read back as."""
    return str(tokenizer.decode(ids.tolist(), skip_special_tokens=True)).strip()


def parse_answer(text: str) -> list[str]:
    """The titles of an answer, in order; empty ones are left out."""
    return [title for part in text.split(SEPARATOR) if (title := part.strip())]


def check_round_trip(
    tokenizer: Any, titles: Catalogue | Sequence[str], settings: TextSettings
) -> None:
    """A `MismatchError` that names the first title that the tokenizer does not decode to itself."""
    whole = settings.model_copy(update={"tokens": None})
    tokens = title_tokens(tokenizer, titles, whole)
    for row, text in enumerate(_texts(titles, whole)):
        read_back = canonical(tokenizer, tokens.of(row))
        if read_back != text:
            raise MismatchError(
                f"the tokenizer decodes the title '{text}' as '{read_back}', so no answer can be "
                "matched to it"
            )


SYSTEM = "You help a shop to tell what each of its customers will want next."
_HISTORY = "A customer has chosen these, the oldest first, divided by ||:\n"
_CANDIDATES = "\nThese are on offer, divided by ||:\n"
_FIVE = (
    "\nName the five of them that the customer is most likely to choose next, the likeliest "
    "first, in the very words above and divided by ||."
)
_FIVE_MORE = (
    "\nName, by title, the five that the customer is most likely to choose next, the likeliest first, "
    "divided by ||."
)
_ONE = "\nName the one of them that the customer is most likely to choose next, in the very words above."
_NEXT = "\nName what the customer is most likely to choose next, by its title."
_LIKE = "\nWill the customer like this one?\n"
_YES_NO = "\nAnswer Yes or No."

_SHORT_SYSTEM = "recommend"
_SHORT = {_CANDIDATES: "\n", _LIKE: "\n"}  # all other pieces are empty


class _Words:
    """The fixed pieces of prompts of one tokenizer, in ids."""

    def __init__(self, tokenizer: Any, settings: PromptSettings) -> None:
        self._plain = plain_tokenizer(tokenizer)
        self._short = settings.short
        system = _SHORT_SYSTEM if settings.short else SYSTEM
        self.frame = chat_frame(tokenizer, system, settings.chat_template)
        self.separator = self.ids(SEPARATOR)
        if not len(self.separator):
            raise MismatchError(f"the tokenizer {type(tokenizer).__name__} gives no token for '||'")

    def piece(self, text: str) -> Ids:
        """A fixed piece of a prompt, or its short form."""
        return self.ids(_SHORT.get(text, "") if self._short else text)

    def ids(self, text: str) -> Ids:
        """The ids of a text without special tokens."""
        encoded = self._plain.encode(text, add_special_tokens=False).ids if text else []
        return np.array(encoded, dtype=np.int32)


class ListPrompt:
    """History and candidates in, `titles` titles out: WeaveRec's prompt, in our words.

    Without candidates it asks for what comes next. `separator` and `end` are what follows a title
    of the answer.
    """

    def __init__(self, tokenizer: Any, settings: PromptSettings, titles: int = 1) -> None:
        self.settings = settings
        self._words = words = _Words(tokenizer, settings)
        self.separator: tuple[int, ...] = tuple(words.separator.tolist())
        self.end = words.frame.end
        self._before = np.concatenate([_array(words.frame.before), words.piece(_HISTORY)])
        self._offer = words.piece(_CANDIDATES)
        after = _array(words.frame.after)
        listed, free = (_FIVE, _FIVE_MORE) if titles > 1 else (_ONE, _NEXT)
        self._of_them = np.concatenate([words.piece(listed), after])
        self._next = np.concatenate([words.piece(free), after])

    def prompts(
        self,
        tokens: ItemTokens,
        histories: Sequence[IntArray],
        candidates: IntArray | None,
        most: IntArray | None = None,
    ) -> Prompts:
        """n prompts of at most `max_tokens` ids each, and at most `most` [n] where that is given.

        `histories` are rows of `tokens`, oldest first; `candidates` [n, c] rows in the order to be
        shown. A history loses its oldest items, and the newest is cut short only if it alone is
        too long; frame and candidates are never cut: a `SettingError` says what they need.
        """
        return _fill(
            self._before,
            tokens,
            histories,
            [self._tail(tokens, candidates, row) for row in range(len(histories))],
            self._words.separator,
            self.settings,
            most,
        )

    def _tail(self, tokens: ItemTokens, candidates: IntArray | None, row: int) -> Ids:
        if candidates is None:
            return self._next
        listed = candidates[row]
        empty = tokens.lengths[listed] == 0
        if empty.any():
            raise DataError(f"candidate {int(listed[empty][0])} of prompt {row + 1} has no title")
        return np.concatenate(
            [self._offer, _joined(tokens, listed, self._words.separator), self._of_them]
        )

    def answers(self, tokens: ItemTokens, lists: Sequence[IntArray] | IntArray) -> Ragged:
        """Titles joined by the separator, then the end of the turn."""
        end = np.array([self.end], dtype=np.int32)
        rows = [np.concatenate([_joined(tokens, one, self._words.separator), end]) for one in lists]
        return ragged(rows)

    def answer_lengths(self, titles: IntArray) -> NDArray[np.int64]:
        """[n] ids of answers, end included, whose titles have `titles` [n, k] ids."""
        joints = (titles.shape[1] - 1) * len(self.separator)
        lengths: NDArray[np.int64] = titles.astype(np.int64).sum(axis=1) + joints + 1
        return lengths


class YesNoPrompt:
    """History and one item in, Yes or No out: TALLRec's question, in our words."""

    def __init__(self, tokenizer: Any, settings: PromptSettings) -> None:
        self.settings = settings
        self._words = words = _Words(tokenizer, settings)
        self._before = np.concatenate([_array(words.frame.before), words.piece(_HISTORY)])
        self._like = words.piece(_LIKE)
        self._ask = np.concatenate([words.piece(_YES_NO), _array(words.frame.after)])
        end = np.array([words.frame.end], dtype=np.int32)
        yes, no = words.ids("Yes"), words.ids("No")
        self.yes, self.no = int(yes[0]), int(no[0])
        if self.yes == self.no:
            raise MismatchError("the tokenizer begins Yes and No with the same token")
        self.answers = (np.append(yes, end), np.append(no, end))

    def prefixes(
        self,
        tokens: ItemTokens,
        histories: Sequence[IntArray],
        longest: int,
        window: int | None = None,
    ) -> Prompts:
        """What all questions about a history begin with: behind it an item of `longest` ids fits into
        `max_tokens`, and the answer into the `window` too."""
        tail = [self._like] * len(histories)
        room = len(self._ask) + longest
        left = self.settings.model_copy(update={"max_tokens": self.settings.max_tokens - room})
        most = None
        if window is not None:
            most = np.full(len(histories), window - room - max(map(len, self.answers)))
        return _fill(self._before, tokens, histories, tail, self._words.separator, left, most)

    def suffix(self, tokens: ItemTokens, item: int) -> Ids:
        """The item, the question and the assistant's header."""
        return np.concatenate([tokens.of(item), self._ask])


def _fill(
    before: Ids,
    tokens: ItemTokens,
    histories: Sequence[IntArray],
    tails: Sequence[Ids],
    separator: Ids,
    settings: PromptSettings,
    most: IntArray | None,
) -> Prompts:
    """before, as much of each history as fits, tail; at most `most` [n] ids where that is given."""
    lengths, gap = tokens.lengths, len(separator)
    rows: list[Ids] = []
    cut = np.zeros(len(histories), dtype=np.int64)
    for number, (history, tail) in enumerate(zip(histories, tails, strict=True)):
        fixed = len(before) + len(tail)
        room = settings.max_tokens - fixed
        if room < 0:
            raise SettingError(
                f"prompt {number + 1} needs {fixed} tokens for its candidates and question, and at "
                f"most {settings.max_tokens} are allowed; candidates are never cut: raise "
                "recommender.prompt.max_tokens, or shorten titles with recommender.text"
            )
        if most is not None:
            room = min(room, int(most[number]) - fixed)
        if room < 0:
            raise SettingError(
                f"prompt {number + 1} needs {fixed} tokens for its candidates and question, and the "
                f"backbone's window leaves {most[number]} beside the answer: shorten titles with "  # type: ignore[index]
                "recommender.text, or take a backbone with a longer window"
            )
        items = np.asarray(history, dtype=np.int64)
        items = items[lengths[items] > 0]
        recent = items[-settings.history_items :] if settings.history_items else items
        needs = np.cumsum(lengths[recent[::-1]] + gap) - gap
        fits = int(np.searchsorted(needs, room, side="right"))
        shown = recent[len(recent) - fits :]
        body = _joined(tokens, shown, separator)
        if not fits and len(recent) and room:
            body = tokens.of(int(recent[-1]))[:room]
        cut[number] = len(recent) - fits
        rows.append(np.concatenate([before, body, tail]))
    return Prompts(ragged(rows), cut)


def _joined(tokens: ItemTokens, items: IntArray, separator: Ids) -> Ids:
    """The items' ids with the separator between them."""
    pieces: list[Ids] = []
    for item in items.tolist():
        pieces += [tokens.of(item), separator]
    return np.concatenate(pieces[:-1]) if pieces else np.empty(0, dtype=np.int32)


def _array(ids: Sequence[int]) -> Ids:
    return np.array(ids, dtype=np.int32)
