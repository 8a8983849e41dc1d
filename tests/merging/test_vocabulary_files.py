"""Which token each row stands for, from every kind of tokenizer file that models come with."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from vocabulary_cases import WORDS, fast_tokenizer, model, tokens, write_model

from weft.errors import WeftError
from weft.merging.engine.source import Memory
from weft.merging.merge import merge
from weft.merging.vocabulary.tensors import vocabulary_tensors
from weft.merging.vocabulary.tokens import first_difference, read_vocabulary


def varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def sentencepiece(pieces: list[str]) -> bytes:
    """A ModelProto with these pieces: text, a score (32 bits) and a kind; then another field."""
    raw = b""
    for piece in pieces:
        text = piece.encode()
        body = b"\x0a" + varint(len(text)) + text + b"\x15\x00\x00\x80\xbf" + b"\x18\x01"
        raw += b"\x0a" + varint(len(body)) + body
    return raw + b"\x12\x02\x08\x01"


def slow(folder: Path, words: tuple[str, ...]) -> None:
    (folder / "vocab.json").write_text(json.dumps({w: k for k, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")


def unigram(folder: Path, words: tuple[str, ...]) -> None:
    values = {"added_tokens": [], "model": {"type": "Unigram", "vocab": [[w, -1.0] for w in words]}}
    (folder / "tokenizer.json").write_text(json.dumps(values))


def tekken(folder: Path, words: tuple[str, ...]) -> None:
    vocab = [
        {"rank": k, "token_bytes": base64.b64encode(w.encode()).decode()}
        for k, w in enumerate(words)
    ]
    values = {"config": {"default_num_special_tokens": 2}, "vocab": vocab}
    (folder / "tekken.json").write_text(json.dumps(values))


def tiktoken(folder: Path, words: tuple[str, ...]) -> None:
    lines = [f"{base64.b64encode(w.encode()).decode()} {k}" for k, w in enumerate(words)]
    (folder / "qwen.tiktoken").write_text("\n".join(lines) + "\n")


KINDS: dict[str, Callable[[Path, tuple[str, ...]], Any]] = {
    "fast": lambda folder, words: (folder / "tokenizer.json").write_text(
        json.dumps(fast_tokenizer((), words))
    ),
    "unigram": unigram,
    "slow": slow,
    "lines": lambda folder, words: (folder / "vocab.txt").write_text("\n".join(words) + "\n"),
    "sentencepiece": lambda folder, words: (folder / "spiece.model").write_bytes(
        sentencepiece(list(words))
    ),
    "tekken": tekken,
    "tiktoken": tiktoken,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_swap_of_two_tokens_is_refused_whatever_the_file(kind: str, tmp_path: Path) -> None:
    swapped = (*WORDS[:-2], WORDS[-1], WORDS[-2])
    folders = {}
    for name, words in {"a": WORDS, "b": WORDS, "c": swapped}.items():
        folders[name] = write_model(tmp_path / name, model(len(folders), 16))
        KINDS[kind](folders[name], words)
    merge([folders["a"], folders["b"]], out=tmp_path / "same")
    with pytest.raises(WeftError, match=r"the tokenizers of a and c differ: token '.*' is row"):
        merge([folders["a"], folders["c"]], out=tmp_path / "other")


def test_one_vocabulary_in_two_kinds_of_file_is_the_same(tmp_path: Path) -> None:
    ways = [kind for kind in KINDS if kind not in ("tekken", "tiktoken")]
    folders = []
    for kind in ways:
        folders.append(write_model(tmp_path / kind, model(len(folders), 16)))
        KINDS[kind](folders[-1], WORDS)
    merge(folders, out=tmp_path / "out")


def test_added_tokens_stand_in_one_of_three_files(tmp_path: Path) -> None:
    decoder = {"10": {"content": "<x>", "special": True}, "0": {"content": "<unk>"}}
    for name, file, values in (
        ("fast", "tokenizer.json", fast_tokenizer(("<x>",))),
        ("config", "tokenizer_config.json", {"added_tokens_decoder": decoder}),
        ("added", "added_tokens.json", {"<x>": 10}),
    ):
        folder = tmp_path / name
        folder.mkdir()
        if name != "fast":
            slow(folder, WORDS)
        (folder / file).write_text(json.dumps(values))
        vocabulary = read_vocabulary(folder)
        assert vocabulary is not None and vocabulary.ids == tokens(("<x>",))
        assert vocabulary.entries["<x>"]["content"] == "<x>"


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("tokenizer.json", b'{"model": {}}', "tokenizer.json has no vocabulary"),
        ("tokenizer.json", b'{"model": {"vocab": {"a": "b"}}}', "the token 'a' has the row 'b'"),
        ("tokenizer.json", b'{"model": {"vocab": {"a": true}}}', "has the row True"),
        ("tokenizer.json", b"[", "is not valid JSON"),
        ("vocab.json", b"[1]", "vocab.json holds no tokens"),
        ("vocab.txt", b"\xff\xfe\n", "is not UTF-8"),
        ("spiece.model", b"\x0a\x7f\x0a", "is no SentencePiece model"),
        ("tekken.json", b'{"vocab": []}', "has no vocabulary that weft reads"),
        ("q.tiktoken", b"YQ== x\n", "is no token with its row"),
    ],
)
def test_a_broken_tokenizer_is_named(tmp_path: Path, file: str, content: bytes, words: str) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises(WeftError, match=words):
        read_vocabulary(tmp_path)


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    KINDS["lines"](tmp_path, ("a", "b"))
    first = read_vocabulary(tmp_path)
    KINDS["lines"](tmp_path, ("a", "b", "c"))
    second = read_vocabulary(tmp_path)
    assert first is not None and second is not None
    assert (len(first.ids), len(second.ids)) == (2, 3)
    assert read_vocabulary(tmp_path / "nothing") is None


def test_the_difference_of_the_lowest_row_is_named() -> None:
    assert first_difference({"a": 0, "b": 1}, {"a": 0, "b": 1}, (2, 2)) is None
    assert first_difference({"a": 0, "b": 1, "c": 2}, {"a": 0, "c": 1, "b": 2}, (3, 3)) == "b"
    assert first_difference({"a": 0, "b": 5}, {"a": 0}, (5, 5)) is None
    assert first_difference({"a": 0, "b": 4}, {"a": 0}, (5, 5)) == "b"


def test_tensors_of_tokens_are_known_by_name_or_by_their_length() -> None:
    shapes = {
        "bert.embeddings.word_embeddings.weight": (30, 4),
        "bert.embeddings.position_embeddings.weight": (16, 4),
        "bert.encoder.layer.0.output.dense.weight": (4, 8),
        "cls.predictions.bias": (30,),
        "cls.predictions.decoder.weight": (30, 4),
        "frequencies": (1, 30),
        "square": (30, 30),
        "final_logits_bias": (1, 30),
    }
    found = Memory("m", {name: torch.zeros(shape) for name, shape in shapes.items()})
    assert vocabulary_tensors(found.specs) == {
        "bert.embeddings.word_embeddings.weight": 0,
        "cls.predictions.bias": 0,
        "cls.predictions.decoder.weight": 0,
        "frequencies": 1,
        "final_logits_bias": 1,
    }
