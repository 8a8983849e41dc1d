"""The vocabulary of a merge's output, and the tokenizer files that go with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.artifacts.atomic import read_json, write_json
from weft.artifacts.hashing import hash_json
from weft.errors import MismatchError
from weft.merging.checkpoints.checkpoint import Checkpoint
from weft.merging.vocabulary.rules import TokenizerRules
from weft.merging.vocabulary.tokens import (
    ADDED,
    CONFIG,
    TOKENIZER,
    Ids,
    Vocabulary,
    plain_entry,
)


@dataclass(frozen=True, eq=False)
class OutputVocabulary:
    """Token -> row of what comes out. `owner` is the model whose configuration and tokenizer files
    it gets; `added` are the tokens that its tokenizer has not, as tokenizer.json writes them."""

    ids: Ids
    rows: int
    owner: Checkpoint
    added: Sequence[Mapping[str, Any]]
    rules: TokenizerRules

    @property
    def signature(self) -> str:
        rules = self.rules.model_dump(mode="json")
        return hash_json([sorted(self.ids.items()), self.rows, self.owner.label, rules])

    def extend_files(self, folder: Path) -> None:
        """Put the new tokens into the copies of the owner's tokenizer files."""
        if not self.added:
            return
        values = read_json(folder / TOKENIZER)
        added = [*(values.get("added_tokens") or []), *self.added]
        write_json(folder / TOKENIZER, {**values, "added_tokens": added})
        config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
        if isinstance(config.get("added_tokens_decoder"), dict):
            more = {
                str(one["id"]): {key: value for key, value in one.items() if key != "id"}
                for one in self.added
            }
            decoder = {**config["added_tokens_decoder"], **more}
            write_json(folder / CONFIG, {**config, "added_tokens_decoder": decoder})
        if (folder / ADDED).is_file():
            known = read_json(folder / ADDED)
            write_json(folder / ADDED, known | {one["content"]: one["id"] for one in self.added})


def output_vocabulary(
    owner: tuple[Checkpoint, Vocabulary, int],
    others: Iterable[tuple[Vocabulary, int]],
    rules: TokenizerRules,
) -> OutputVocabulary:
    """The owner's tokens that have a row, then those that only `others` have, then those that
    the rules name; each vocabulary with the number of its rows."""
    checkpoint, vocabulary, rows = owner
    ids = {token: row for token, row in vocabulary.ids.items() if row < rows}
    entries = [one for other, size in others for one in _foreign(other, size)]
    entries += [plain_entry(token, 0) for token in rules.tokens]
    reached = max(ids.values(), default=-1) + 1
    added: list[Mapping[str, Any]] = []
    for entry in entries:
        if entry["content"] not in ids:
            ids[entry["content"]] = reached
            added.append({**entry, "id": reached})
            reached += 1
    if added and vocabulary.path.name != TOKENIZER:
        raise MismatchError(
            f"{checkpoint.label} has no {TOKENIZER}, only {vocabulary.path.name}, to which weft adds no "
            f"tokens ({added[0]['content']!r} is the first)"
        )
    step = rules.pad_to_multiple_of or 1
    return OutputVocabulary(ids, -(-reached // step) * step, checkpoint, added, rules)


def _foreign(vocabulary: Vocabulary, size: int) -> list[Mapping[str, Any]]:
    """Every token with a row, as an entry; added tokens last, each kind in the order of rows."""
    there = sorted((row, token) for token, row in vocabulary.ids.items() if row < size)
    entries = vocabulary.entries
    usual = [plain_entry(token, row) for row, token in there if token not in entries]
    return [*usual, *(entries[token] for _, token in there if token in entries)]
