"""Each item's text, tokenised once, and never read as special tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from weft.artifacts.hashing import hash_arrays
from weft.data.domain import Catalogue
from weft.errors import MismatchError
from weft.text.cleaning import clean_text
from weft.text.items import TextSettings, field_texts, item_texts, join

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class ItemTokens:
    """The token ids of m texts, as compressed rows: text i has `ids[offsets[i]:offsets[i+1]]`.

    No id is structural. A row may have no tokens at all (an empty text).
    """

    offsets: NDArray[np.int64]  # [m + 1]
    ids: NDArray[np.int32]  # [tokens]
    keys: NDArray[np.bool_] | None = None  # [tokens]: is of a field's name; None: no token is

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, item: int) -> NDArray[np.int32]:
        """[length] int32: the token ids of one text."""
        return self.ids[self.offsets[item] : self.offsets[item + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[m] int64."""
        return np.diff(self.offsets)

    @cached_property
    def text(self) -> NDArray[np.int64]:
        """[m] int64: the first row with the same ids, so that equal texts have equal numbers."""
        seen: dict[bytes, int] = {}
        rows = (seen.setdefault(self.of(row).tobytes(), row) for row in range(len(self)))
        return np.fromiter(rows, dtype=np.int64, count=len(self))

    @cached_property
    def hash(self) -> str:
        """A hash of the ids and of where each row ends."""
        return hash_arrays({"offsets": self.offsets, "ids": self.ids})


def tokenize_items(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_tokens: int | None = None
) -> ItemTokens:
    """Tokenise texts one by one into ids, each cut to its first `max_tokens` tokens.

    Texts are cleaned first (that of a clean text is free). No special tokens are put around a
    text, and none that is written inside it is recognised: "[SEP]", "<|im_end|>", "</s>" and any
    other added token, special or not, are read as the characters that they are. Should the
    vocabulary itself hold a special token's text as a word, its id becomes the unknown token's
    where that has no other role, and is dropped otherwise. An empty text has no tokens.

    Raises a `MismatchError` for a tokenizer without a `tokenizers` backend.

    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> from transformers import PreTrainedTokenizerFast
    >>> words = Tokenizer(models.WordLevel({"?": 0, "red": 1, "mug": 2, "oak": 3}, unk_token="?"))
    >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?")
    >>> tokens = tokenize_items(tokenizer, ["red mug", "", "oak oak mug"], max_tokens=2)
    >>> tokens.ids
    array([1, 2, 3, 3], dtype=int32)
    >>> tokens.offsets
    array([0, 2, 2, 4])
    """
    plain = plain_tokenizer(tokenizer)
    encodings = plain.encode_batch_fast(
        [clean_text(text) for text in texts], add_special_tokens=False
    )
    rows = [encoding.ids for encoding in encodings]
    lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
    ids = np.fromiter((id for row in rows for id in row), dtype=np.int32, count=lengths.sum())
    row_of = np.repeat(np.arange(len(rows)), lengths)

    bad = np.isin(ids, np.array(structural_ids(tokenizer), dtype=np.int32))
    if bad.any():
        unknown = tokenizer.unk_token_id
        if unknown is not None and unknown not in structural_ids(tokenizer):
            ids[bad] = unknown
        else:
            ids, row_of = ids[~bad], row_of[~bad]
            lengths = np.bincount(row_of, minlength=len(rows))
    if max_tokens is not None and len(lengths) and lengths.max() > max_tokens:
        position = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        ids = ids[position < max_tokens]
        lengths = np.minimum(lengths, max_tokens)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return ItemTokens(offsets, ids)


def encode_items(
    tokenizer: PreTrainedTokenizerBase, catalogue: Catalogue, settings: TextSettings
) -> ItemTokens:
    """Tokenise the texts of a catalogue's items, in its order."""
    if settings.by_field:
        return _encode_fields(tokenizer, field_texts(catalogue, settings), len(catalogue), settings)
    return tokenize_items(tokenizer, item_texts(catalogue, settings), settings.tokens)


def encode_titles(
    tokenizer: PreTrainedTokenizerBase, titles: Sequence[str], settings: TextSettings
) -> ItemTokens:
    """Tokenise raw titles, of no catalogue, just as a catalogue with only titles would be."""
    if settings.by_field:
        fields = {"title": [clean_text(title) for title in titles]}
        return _encode_fields(tokenizer, fields, len(titles), settings)
    texts = [join((title,), settings.words) for title in titles]
    return tokenize_items(tokenizer, texts, settings.tokens)


def _encode_fields(
    tokenizer: PreTrainedTokenizerBase,
    fields: Mapping[str, Sequence[str]],
    count: int,
    settings: TextSettings,
) -> ItemTokens:
    """Fields tokenised one by one and joined: each value cut, behind the field's name if asked."""
    ids: list[list[NDArray[np.int32]]] = [[] for _ in range(count)]
    keys: list[list[NDArray[np.bool_]]] = [[] for _ in range(count)]
    for field, values in fields.items():
        encoded = tokenize_items(tokenizer, values, settings.field_tokens)
        name = tokenize_items(tokenizer, [field] if settings.keys else [""]).of(0)
        for row in range(count):
            value = encoded.of(row)
            if len(value):
                ids[row] += [name, value]
                keys[row].append(np.arange(len(name) + len(value)) < len(name))
    most = settings.tokens
    rows = [np.concatenate(row)[:most] if row else np.empty(0, np.int32) for row in ids]
    marks = [np.concatenate(row)[:most] if row else np.empty(0, np.bool_) for row in keys]
    offsets = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    if not count:
        return ItemTokens(offsets, np.empty(0, np.int32), np.empty(0, np.bool_))
    return ItemTokens(offsets, np.concatenate(rows).astype(np.int32), np.concatenate(marks))


def structural_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Sorted ids that no text may produce: every special token but a mere unknown token.

    An unknown token that is also the padding, start, end or separator token is structural.
    """
    special = set(tokenizer.all_special_ids)
    special |= {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    unknown = tokenizer.unk_token_id
    roles = ("bos", "eos", "sep", "pad", "cls", "mask")
    if all(getattr(tokenizer, f"{role}_token_id") != unknown for role in roles):
        special.discard(unknown)
    return sorted(special)


_plain: WeakKeyDictionary[PreTrainedTokenizerBase, Tokenizer] = WeakKeyDictionary()


def plain_tokenizer(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """A copy of the tokenizer's backend that knows no added tokens, cutting or padding.

    Made once for each tokenizer. The tokenizer itself is not changed.
    """
    known = _plain.get(tokenizer)
    if known is not None:
        return known
    from tokenizers import Tokenizer

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise MismatchError(
            f"the tokenizer {type(tokenizer).__name__} has no fast version; weft needs one"
        )
    content = json.loads(backend.to_str())
    content["added_tokens"] = []
    content["truncation"] = None
    content["padding"] = None
    plain = Tokenizer.from_str(json.dumps(content))
    plain.encode_special_tokens = True
    _plain[tokenizer] = plain
    return plain
