"""Which token each row of an embedding stands for, read from the tokenizer files of a model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weft.artifacts.atomic import read_json, reason
from weft.errors import DataError

TOKENIZER, CONFIG, ADDED = "tokenizer.json", "tokenizer_config.json", "added_tokens.json"
Ids = Mapping[str, int]


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Token -> row. `entries` has the added tokens as tokenizer.json writes them."""

    path: Path  # the file that most of it is from
    ids: Ids
    entries: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def read_vocabulary(folder: Path) -> Vocabulary | None:
    """The vocabulary of a model's folder; None where it has no tokenizer file that weft reads.

    Of several files the first counts that transformers would load: tokenizer.json, vocab.json,
    vocab.txt, a SentencePiece model, tekken.json, a tiktoken file. Added tokens that it lacks come
    from added_tokens.json and tokenizer_config.json. A broken file is a `WeftError`.
    """
    stamps = tuple(
        (str(path), status.st_size, status.st_mtime_ns)
        for path in tokenizer_files(folder)
        for status in [path.stat()]
    )
    return _read(folder, stamps)


def has_vocabulary(folder: Path) -> bool:
    """Whether a folder has a file from which `read_vocabulary` would read one."""
    named = any((folder / name).is_file() for name, _ in _READERS)
    return named or (folder.is_dir() and any(folder.glob("*.tiktoken")))


def tokenizer_files(folder: Path) -> list[Path]:
    """The files that decide which token has which row."""
    named = [name for name, _ in _READERS if (folder / name).is_file()]
    others = sorted(folder.glob("*.tiktoken")) if folder.is_dir() else []
    extra = [name for name in (ADDED, CONFIG) if (folder / name).is_file()]
    return [folder / name for name in named] + others + [folder / name for name in extra]


def same_files(one: Path, other: Path) -> bool:
    """Whether two folders have the same tokenizer files, byte for byte."""
    files = [tokenizer_files(folder) for folder in (one, other)]
    names = [[path.name for path in some] for some in files]
    return bool(names[0]) and names[0] == names[1] and all(map(_equal, *files))


def first_difference(one: Ids, other: Ids, rows: tuple[int, int]) -> str | None:
    """The token of the lowest row that is another one's, or no one's, in the other vocabulary.

    `rows` are how many rows each embedding has; tokens beyond these are in no embedding.
    """
    mine = {token: row for token, row in one.items() if row < rows[0]}
    theirs = {token: row for token, row in other.items() if row < rows[1]}
    odd = dict(mine.items() ^ theirs.items())
    lowest: Callable[[str], tuple[int, str]] = lambda token: (  # noqa: E731
        min(ids[token] for ids in (mine, theirs) if token in ids),
        token,
    )
    return min(odd, key=lowest, default=None)


@functools.lru_cache(maxsize=16)
def _read(folder: Path, stamps: tuple[tuple[str, int, int], ...]) -> Vocabulary | None:
    """`stamps` tell a changed file from the one that was read before."""
    first = _first(folder)
    if first is None:
        return None
    entries = dict(first.entries)
    ids = dict(first.ids)
    for token, row, entry in _more(folder):
        if token not in ids:
            ids[token] = row
            entries[token] = entry
    return Vocabulary(first.path, ids, entries)


def _first(folder: Path) -> Vocabulary | None:
    for name, read in _READERS:
        if (folder / name).is_file():
            return read(folder / name)
    for path in sorted(folder.glob("*.tiktoken")):
        return _tiktoken(path)
    return None


def _fast(path: Path) -> Vocabulary:
    """tokenizer.json: a vocabulary by name, or pieces in the order of their rows."""
    values = read_json(path)
    model = values.get("model") if isinstance(values, dict) else None
    stated = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(stated, list) and all(isinstance(one, list) and one for one in stated):
        stated = {one[0]: row for row, one in enumerate(stated)}
    added = (values.get("added_tokens") or []) if isinstance(values, dict) else []
    if not isinstance(stated, dict) or not isinstance(added, list):
        raise DataError(f"{path} has no vocabulary (model.vocab)")
    entries: dict[str, Mapping[str, Any]] = {}
    for one in added:
        if not isinstance(one, dict) or not isinstance(one.get("content"), str):
            raise DataError(f"{path}: added_tokens has an entry without content")
        entries[one["content"]] = one
    ids = {**stated, **{token: one.get("id") for token, one in entries.items()}}
    return Vocabulary(path, _checked(ids, path), entries)


def _json(path: Path) -> Vocabulary:
    values = read_json(path)
    if not isinstance(values, dict):
        raise DataError(f"{path} holds no tokens by name")
    return Vocabulary(path, _checked(values, path))


def _lines(path: Path) -> Vocabulary:
    lines = _text(path).split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return Vocabulary(path, {line.rstrip("\r"): row for row, line in enumerate(lines)})


def _tekken(path: Path) -> Vocabulary:
    """Mistral's: special tokens first, then byte sequences by rank."""
    values = read_json(path)
    try:
        count = values["config"]["default_num_special_tokens"]
        ids = {f"<special {row}>": row for row in range(count)}
        ids |= {one["token_str"]: one["rank"] for one in values.get("special_tokens") or []}
        ids |= {f"base64:{one['token_bytes']}": one["rank"] + count for one in values["vocab"]}
    except (KeyError, TypeError):
        raise DataError(f"{path} has no vocabulary that weft reads") from None
    return Vocabulary(path, _checked(ids, path))


def _tiktoken(path: Path) -> Vocabulary:
    """A line a token: base64 of its bytes, and its row."""
    ids: dict[str, Any] = {}
    for line in _text(path).splitlines():
        token, _, row = line.partition(" ")
        if not row.isascii() or not row.isdigit():
            raise DataError(f"{path}: '{line[:40]}' is no token with its row")
        ids[f"base64:{token}"] = int(row)
    return Vocabulary(path, ids)


def _sentencepiece(path: Path) -> Vocabulary:
    """Pieces in the order of their rows: field 1 of the model, of which field 1 is the text."""
    try:
        raw = path.read_bytes()
        pieces = [next(_fields(piece, 1)) for piece in _fields(raw, 1)]
        return Vocabulary(path, {piece.decode("utf-8"): row for row, piece in enumerate(pieces)})
    except OSError as error:
        raise DataError(f"{path} can't be read: {reason(error)}") from None
    except (IndexError, StopIteration, UnicodeDecodeError, ValueError):
        raise DataError(f"{path} is no SentencePiece model") from None


_READERS: Sequence[tuple[str, Callable[[Path], Vocabulary]]] = (
    (TOKENIZER, _fast),
    ("vocab.json", _json),
    ("vocab.txt", _lines),
    ("tokenizer.model", _sentencepiece),
    ("spiece.model", _sentencepiece),
    ("spm.model", _sentencepiece),
    ("sentencepiece.model", _sentencepiece),
    ("sentencepiece.bpe.model", _sentencepiece),
    ("tekken.json", _tekken),
)


def _fields(raw: bytes, wanted: int) -> Iterator[bytes]:
    """The length-delimited fields of this number in a protocol buffer message."""
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        kind = key & 7
        if kind == 2:
            length, at = _varint(raw, at)
            if at + length > len(raw):
                raise ValueError("cut")
            if key >> 3 == wanted:
                yield raw[at : at + length]
            at += length
        elif kind == 0:
            _, at = _varint(raw, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError("no field")


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("too long")


def _more(folder: Path) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    """Added tokens of the files beside the vocabulary: token, row, entry as in tokenizer.json."""
    path = folder / CONFIG
    config = read_json(path) if path.is_file() else {}
    decoder = config.get("added_tokens_decoder") if isinstance(config, dict) else None
    for row, entry in (decoder or {}).items() if isinstance(decoder, dict) else ():
        content = entry.get("content") if isinstance(entry, dict) else None
        if not isinstance(content, str) or not str(row).isdigit():
            raise DataError(f"{path}: added_tokens_decoder has a token without content or row")
        yield content, int(row), {**entry, "id": int(row)}
    path = folder / ADDED
    if path.is_file():
        for token, row in _json(path).ids.items():
            yield token, row, plain_entry(token, row)


def plain_entry(token: str, row: int) -> dict[str, Any]:
    """An added token as tokenizer.json writes it, found wherever it stands in a text."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    return {"id": row, "content": token, **flags, "normalized": True, "special": False}


def _checked(ids: Mapping[Any, Any], path: Path) -> dict[str, int]:
    for token, row in ids.items():
        if not isinstance(token, str) or type(row) is not int or row < 0:
            raise DataError(f"{path}: the token {token!a} has the row {row!a}, not a whole number")
    return dict(ids)


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise DataError(f"{path} can't be read: {reason(error)}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text") from None


def _equal(one: Path, other: Path) -> bool:
    try:
        if one.stat().st_size != other.stat().st_size:
            return False
        return one.read_bytes() == other.read_bytes()
    except OSError as error:
        raise DataError(f"{error.filename} can't be read: {reason(error)}") from None
