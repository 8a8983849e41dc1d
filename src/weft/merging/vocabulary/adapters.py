"""Adapters that bring embeddings, or rows of them, along: their rows must mean the same tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from weft.adapters import Adapter
from weft.errors import MismatchError, notice
from weft.merging.vocabulary.tensors import is_embedding, is_head
from weft.merging.vocabulary.tokens import first_difference, has_vocabulary, read_vocabulary

_ALL = 1 << 62


def check_adapter_rows(
    adapters: Sequence[Adapter], labels: Sequence[str], paths: Sequence[Path | None]
) -> None:
    """A `WeftError` where two adapters have rows of embeddings and their tokenizers differ there.

    An adapter without a tokenizer file is taken to have its backbone's tokens; where only some have
    one, a notice says so.
    """
    rows = {label: _rows(one) for label, one in zip(labels, adapters, strict=True)}
    folders = dict(zip(labels, paths, strict=True))
    having = [label for label in labels if rows[label] is not None]
    known = [
        label
        for label in having
        if (folder := folders[label]) is not None and has_vocabulary(folder)
    ]
    if len(having) < 2 or not known:
        return
    for label in known[1:]:
        _check(known[0], label, folders, rows)
    lacking = [label for label in having if label not in known]
    if lacking:
        notice(
            f"{lacking[0]} has rows of embeddings and no tokenizer file, so they are taken to mean "
            f"the same tokens as in {known[0]}"
        )


def _rows(adapter: Adapter) -> set[int] | None:
    """The rows of embeddings that an adapter has; the empty set for all of them, None for none."""
    if any(is_embedding(name) or is_head(name) for name in adapter.saved):
        return set()
    single = getattr(adapter, "tokens", {})
    trained = {index for one in single.values() for index in one.indices}
    return trained or None


def _check(
    one: str,
    other: str,
    folders: dict[str, Path | None],
    rows: dict[str, set[int] | None],
) -> None:
    wanted = [rows[label] or set() for label in (one, other)]
    places = wanted[0] | wanted[1] if all(wanted) else None
    ids = []
    for label in (one, other):
        folder = folders[label]
        vocabulary = None if folder is None else read_vocabulary(folder)
        rows_of = {} if vocabulary is None else vocabulary.ids
        ids.append({t: row for t, row in rows_of.items() if places is None or row in places})
    token = first_difference(ids[0], ids[1], (_ALL, _ALL))
    if token is not None:
        where = [
            f"row {vocabulary_ids[token]}" if token in vocabulary_ids else "no such row"
            for vocabulary_ids in ids
        ]
        raise MismatchError(
            f"{one} and {other} have rows of embeddings, and their tokenizers differ: token "
            f"{token!r} is {where[0]} in {one} and {where[1]} in {other}; fold each into a "
            "checkpoint (weft fold) and merge these with --tokenizer base or union, or say that "
            "rows mean the same in all (--tokenizer rows)"
        )
