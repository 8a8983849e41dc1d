"""Model inputs out of item tokens: joined, cut and padded at the level of ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from weft.data.domain import IntArray
from weft.errors import MismatchError, SettingError
from weft.text.tokens import ItemTokens, plain_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

START, KEY, VALUE, PADDING = range(4)
"""Kinds of token: the frame, a field's name, a field's value, padding (RecFormer's token types)."""


@dataclass(frozen=True)
class Structure:
    """The ids around and between items: prefix item separator item … suffix.

    With `placed`, an input holds the item of each token, and needs no separator.
    """

    prefix: tuple[int, ...]
    separator: tuple[int, ...]  # at least one id that is in no item
    suffix: tuple[int, ...]
    placed: bool = False

    def __post_init__(self) -> None:
        if not self.separator and not self.placed:
            raise SettingError("items need a separator of at least one id between them")

    @classmethod
    def for_tokenizer(cls, tokenizer: PreTrainedTokenizerBase) -> Structure:
        """The tokenizer's own frame for one text, and a separator that no item can hold.

        The separator is the separator token if there is one ("[SEP]"), else a line break
        (a clean text has none), else the end-of-text token. Raises a `MismatchError` for a
        tokenizer with none of these, or without a token for the letter a.
        """
        plain = plain_tokenizer(tokenizer)
        bare = plain.encode("a", add_special_tokens=False).ids
        if not bare:
            raise MismatchError(f"the tokenizer {type(tokenizer).__name__} gives no token for 'a'")
        framed = plain.encode("a", add_special_tokens=True).ids
        start = next(i for i in range(len(framed) + 1) if framed[i : i + len(bare)] == bare)
        return cls(
            prefix=tuple(framed[:start]),
            separator=_separator(tokenizer),
            suffix=tuple(framed[start + len(bare) :]),
        )


def _separator(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    if tokenizer.sep_token_id is not None:
        return (tokenizer.sep_token_id,)
    line_break = plain_tokenizer(tokenizer).encode("\n", add_special_tokens=False).ids
    if any("\n" in tokenizer.decode([id]) for id in line_break):
        return tuple(line_break)
    if tokenizer.eos_token_id is not None:
        return (tokenizer.eos_token_id,)
    raise MismatchError(
        f"the tokenizer {type(tokenizer).__name__} has no separator, line break or end token"
    )


@dataclass(frozen=True, eq=False)
class Ragged:
    """n rows of token ids: row i is `ids[offsets[i]:offsets[i+1]]`."""

    offsets: NDArray[np.int64]  # [n + 1]
    ids: NDArray[np.int32]  # [tokens]
    items: NDArray[np.int32] | None = None  # [tokens]: its item's place in the row from 1; 0: none
    keys: NDArray[np.bool_] | None = None  # [tokens]: is of a field's name

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, row: int) -> NDArray[np.int32]:
        """[length] int32: the ids of one row."""
        return self.ids[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[n] int64."""
        return np.diff(self.offsets)


def ragged(rows: Sequence[IntArray]) -> Ragged:
    """Rows of ids as one compressed array.

    >>> rows = ragged([np.array([5, 6]), np.array([7])])
    >>> rows.offsets, rows.ids
    (array([0, 2, 3]), array([5, 6, 7], dtype=int32))
    """
    offsets = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    ids = np.concatenate(rows) if rows else np.empty(0, dtype=np.int32)
    return Ragged(offsets, ids.astype(np.int32))


def concatenate_rows(parts: Sequence[Ragged]) -> Ragged:
    """The rows of several, one after the other.

    >>> both = concatenate_rows([ragged([np.array([5, 6])]), ragged([np.array([7])])])
    >>> both.offsets, both.ids
    (array([0, 2, 3]), array([5, 6, 7], dtype=int32))
    """
    lengths = np.concatenate([part.lengths for part in parts])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    items = [part.items for part in parts if part.items is not None]
    keys = [part.keys for part in parts if part.keys is not None]
    return Ragged(
        offsets,
        np.concatenate([part.ids for part in parts]),
        np.concatenate(items) if items else None,
        np.concatenate(keys) if keys else None,
    )


def assemble(
    tokens: ItemTokens, groups: Sequence[IntArray], *, structure: Structure, max_tokens: int
) -> Ragged:
    """One model input for each group of items: prefix, items joined by the separator, suffix.

    `groups` are n arrays of rows of `tokens`, in the order in which they are to stand (most
    recent first, usually). An input has at most `max_tokens` ids: the items listed last are cut
    away, the last one kept may be cut short, prefix and suffix always stay, and no separator
    stands without an item after it. Items without tokens are skipped. An input is never empty:
    where there is no prefix, suffix or item token, it is the separator.

    Raises a `SettingError` if `max_tokens` leaves no room for an item.

    Three items of two, one and three ids; the second input has no room for all of its items:

    >>> tokens = ItemTokens(np.array([0, 2, 3, 6]), np.array([11, 12, 21, 31, 32, 33], np.int32))
    >>> frame = Structure(prefix=(1,), separator=(0,), suffix=(2,))
    >>> inputs = assemble(tokens, [np.array([1, 0]), np.array([2, 0])], structure=frame, max_tokens=7)
    >>> inputs.of(0)
    array([ 1, 21,  0, 11, 12,  2], dtype=int32)
    >>> inputs.of(1)
    array([ 1, 31, 32, 33,  0, 11,  2], dtype=int32)
    """
    prefix, separator, suffix = (
        np.array(part, dtype=np.int32)
        for part in (structure.prefix, structure.separator, structure.suffix)
    )
    room = max_tokens - len(prefix) - len(suffix)
    if room < 1 or max_tokens < len(separator):
        raise SettingError(
            f"max_tokens is {max_tokens}, which leaves no room for an item: the tokens around the "
            f"items take {len(prefix) + len(suffix)}"
        )
    n = len(groups)
    sizes = np.fromiter((len(group) for group in groups), dtype=np.int64, count=n)
    item = np.concatenate([*groups, np.empty(0, dtype=np.int64)]).astype(np.int64)
    row = np.repeat(np.arange(n), sizes)
    length = tokens.lengths[item]
    there = length > 0
    item, row, length = item[there], row[there], length[there]

    # Where each item's piece (its separator, unless it is the first, and its ids) starts in its
    # row's body, and how much of the piece fits.
    first = np.ones(len(row), dtype=bool)
    first[1:] = row[1:] != row[:-1]
    lead: NDArray[np.int64] = np.where(first, 0, len(separator))
    end = np.cumsum(lead + length)
    start: NDArray[np.int64] = end - (lead + length)
    start -= np.repeat(start[first], np.diff(np.append(np.flatnonzero(first), len(row))))
    taken: NDArray[np.int64] = np.minimum(np.maximum(room - start - lead, 0), length)
    fits = taken > 0
    item, row, lead, start, taken = item[fits], row[fits], lead[fits], start[fits], taken[fits]

    body = np.bincount(row, weights=lead + taken, minlength=n).astype(np.int64)
    bare = len(prefix) + len(suffix) == 0
    total = len(prefix) + body + len(suffix)
    if bare:
        total = np.where(body == 0, len(separator), total)
    offsets = np.concatenate([[0], np.cumsum(total)]).astype(np.int64)
    ids = np.empty(offsets[-1], dtype=np.int32)
    _write(ids, offsets[:-1], prefix)
    _write(ids, offsets[1:] - len(suffix), suffix)
    if bare:
        _write(ids, offsets[:-1][body == 0], separator)
    piece = offsets[row] + len(prefix) + start
    _write(ids, piece[lead > 0], separator)
    within = np.arange(taken.sum()) - np.repeat(np.cumsum(taken) - taken, taken)
    to, origin = (
        np.repeat(piece + lead, taken) + within,
        np.repeat(tokens.offsets[item], taken) + within,
    )
    ids[to] = tokens.ids[origin]
    if not structure.placed:
        return Ragged(offsets, ids)
    items, keys = np.zeros(len(ids), dtype=np.int32), np.zeros(len(ids), dtype=bool)
    counted = np.arange(len(row)) - np.searchsorted(row, row)  # of its row's items, from 0
    items[to] = np.repeat(counted + 1, taken)
    if tokens.keys is not None:
        keys[to] = tokens.keys[origin]
    return Ragged(offsets, ids, items, keys)


def _write(ids: NDArray[np.int32], starts: NDArray[np.int64], part: NDArray[np.int32]) -> None:
    """Write `part` into `ids` at each of `starts`."""
    for step, id in enumerate(part):
        ids[starts + step] = id


def pad(
    ragged: Ragged, rows: IntArray, pad_id: int, multiple: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The chosen rows as (ids [n, L] int64, mask [n, L] int64), padded on the right.

    L is the longest chosen row, rounded up to a `multiple`; the mask is 1 on ids and 0 on padding.

    >>> rows = ragged([np.array([5, 6, 7]), np.array([8])])
    >>> ids, mask = pad(rows, np.array([1, 0]), pad_id=0)
    >>> ids
    array([[8, 0, 0],
           [5, 6, 7]])
    >>> mask
    array([[1, 0, 0],
           [1, 1, 1]])
    """
    lengths = ragged.lengths[rows]
    width = -(-int(lengths.max(initial=0)) // multiple) * multiple
    mask = np.arange(width) < lengths[:, None]
    ids = spread_values(ragged, rows, ragged.ids, mask, pad_id)
    return ids, mask.astype(np.int64)


def spread_values(
    ragged: Ragged,
    rows: IntArray,
    values: NDArray[np.generic],
    mask: NDArray[np.generic],
    fill: int,
) -> NDArray[np.int64]:
    """`values` [tokens] of the chosen rows' tokens as [n, L] int64: at the places of `mask` [n, L],
    and `fill` elsewhere.

    >>> rows = ragged([np.array([5, 6]), np.array([7])])
    >>> mask = np.array([[1, 1], [1, 0]])
    >>> spread_values(rows, np.array([0, 1]), np.array([10, 20, 30]), mask, fill=-1)
    array([[10, 20],
           [30, -1]])
    """
    there = np.asarray(mask, dtype=bool)
    lengths = ragged.lengths[rows]
    out = np.full(there.shape, fill, dtype=np.int64)
    within = np.broadcast_to(np.arange(there.shape[1]), there.shape)[there]
    out[there] = values[np.repeat(ragged.offsets[:-1][rows], lengths) + within]
    return out
