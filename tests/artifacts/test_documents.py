"""JSON and YAML from outside: what is read, and what is refused before it costs anything."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.adapters import load_adapter
from weft.artifacts.documents import MOST_DEPTH, decode_json, parse_json, read_json
from weft.artifacts.hashing import hash_file
from weft.artifacts.tensors import read_header
from weft.backbones import load_backbone
from weft.errors import WeftError
from weft.merging.recipe_file import load_merge_recipe
from weft.settings.yaml_documents import parse_yaml, read_yaml
from weft.systems.registry import load_recipe

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**40), 10**40) | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(VALUES)
def test_json_is_read_as_python_writes_it(value: Any) -> None:
    for ascii_only in (True, False):
        text = json.dumps(value, ensure_ascii=ascii_only)
        assert parse_json(text.encode(), "x") == value
        assert repr(decode_json(text)) == repr(json.loads(text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, f"it nests deeper than {MOST_DEPTH} levels"),
        ('{"a":' * 1000 + "1" + "}" * 1000, f"it nests deeper than {MOST_DEPTH} levels"),
        ('{"a": "]", "b": ' + "[" * 100, "it nests deeper"),
        ('{"seed": 1, "seed": 2}', "it names 'seed' twice"),
        ('[{"a": {"\\u0061": 1, "a": 1}}]', "it names 'a' twice"),
        ("9" * 5000, "a whole number has more than 100 digits"),
        ("-" + "9" * 101, "a whole number has more than 100 digits"),
        ("0." + "1" * 2000, "a number has more than 1000 characters"),
        ("1e999", "1e999 is no finite number"),
        ("[NaN]", "NaN is no finite number"),
        ("-Infinity", "-Infinity is no finite number"),
        ('"\\ud800"', "it is no UTF-8 text"),
        (b'{"a": "\xff"}', "it is no UTF-8 text"),
        ("\ufeff{}", "it starts with a byte order mark"),
        ("", "it ends too early"),
        ('{"a": 1', "it ends too early"),
        ("{'a': 1}", "Expecting property name"),
        ('"' + '\\"' * 1_000_000, "Unterminated string"),
    ],
)
def test_json_that_is_refused(text: str | bytes, words: str) -> None:
    with pytest.raises(WeftError) as error:
        parse_json(text, "x.json")
    assert str(error.value).startswith("x.json is not valid JSON: ") and words in str(error.value)
    assert len(str(error.value)) < 200


def test_brackets_in_texts_are_no_depth_and_depth_up_to_the_bound_is_read() -> None:
    text = '["' + "[{" * 1000 + '", "\\"[[[[' + "[" * 1000 + '"]'
    assert parse_json(text, "x") == json.loads(text)
    deep = "[" * MOST_DEPTH + "]" * MOST_DEPTH
    assert parse_json("[" + ",".join(["[]"] * 5000) + "]", "x") == [[]] * 5000
    assert parse_json(deep, "x") == json.loads(deep)
    with pytest.raises(WeftError, match="nests deeper"):
        parse_json(f"[{deep}]", "x")


YAML = [
    ("a: 1e-4\nb: 1_000\nc: .5\nd: 0x1F\ne: -3", {"a": 1e-4, "b": 1000, "c": 0.5, "d": 31, "e": -3}),
    ("a: 2014-01-01\nb: =\nc: ~\nd:\ne: y", {"a": "2014-01-01", "b": "=", "c": None, "d": None, "e": "y"}),
    ("a: true\nb: 'no'\nc: \"1:30\"", {"a": True, "b": "no", "c": "1:30"}),
    ("a: &x [1, 2]\nb: *x", {"a": [1, 2], "b": [1, 2]}),
    ("a: &x {m: 1, n: 1}\nb: {<<: *x, n: 2}\nc: {<<: *x, m: 3}", {"a": {"m": 1, "n": 1}, "b": {"m": 1, "n": 2}, "c": {"m": 3, "n": 1}}),
    ("- &x {<<: &y {a: 1}, a: 2}\n- {<<: *x, b: 1}\n- *x", [{"a": 2}, {"a": 2, "b": 1}, {"a": 2}]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), YAML)
def test_yaml_that_is_read(text: str, value: Any) -> None:
    assert parse_yaml(text, "x") == value


BOMB = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{one}: &{one} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, one in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed: 1\nseed: 2", "line 2: it names 'seed' twice"),
        ("a: {b: 1, 'b': 2}", "line 1: it names 'b' twice"),
        ("a: &x {b: 1}\nc: {<<: *x, <<: *x}", "it names '<<' twice"),
        ("1: a\n1.0: b", "twice"),
        ("[" * 100_000, f"nests deeper than {MOST_DEPTH}"),
        ("- " * 1000 + "a", f"nests deeper than {MOST_DEPTH}"),
        ("a: &x [*x]", "*x holds itself"),
        ("a: &x {b: [{c: *x}]}", "*x holds itself"),
        (BOMB, "more than 100000 values"),
        ("a: !!python/object/apply:os.system [ls]", "line 1: tags are not read"),
        ("a: !!float 1", "line 1: tags are not read"),
        ("a: .inf", "line 1: .inf is no finite number"),
        ("a: [1, -.INF]", "-.INF is no finite number"),
        ("a: .nan", ".nan is no finite number"),
        ("a: 1e999", "1e999 is no finite number"),
        ("a: " + "9" * 5000, "more than 100 digits"),
        ("a: 0x" + "9" * 5000, "more than 100 digits"),
        ("a:\n- no", 'line 2: no may be a word or a truth value; write "no" in quotes, or false'),
        ("On: 1", 'write "On" in quotes, or true'),
        ("a: 1:30", '1:30 is a number to some readers only; write "1:30" in quotes'),
        ("a: 012", '012 is a number to some readers only; write "012" in quotes'),
        ("a: 0o12", "0o12 is a number to some readers only"),
        ("? [a]\n: 1", "a key must be a word or a number"),
        ("a: [", "is not valid YAML"),
        ("a: *b", "undefined alias"),
        ("a: 1\n---\nb: 1", "holds several YAML documents"),
        ("a: \x07", "is not valid YAML"),
    ],
)
def test_yaml_that_is_refused(text: str, words: str) -> None:
    with pytest.raises(WeftError) as error:
        parse_yaml(text, "x.yaml")
    message = str(error.value)
    assert message.startswith("x.yaml") and words in message and message.isprintable()


READERS: dict[str, Callable[[Path], Any]] = {
    "x.json": read_json,
    "x.yaml": read_yaml,
    "recipe.yaml": load_recipe,
    "merge.yaml": load_merge_recipe,
    "merge.json": load_merge_recipe,
    "x.safetensors": read_header,
    "x.bin": hash_file,
    "weft.json": lambda path: load_adapter(path.parent),
    "adapter_config.json": lambda path: load_adapter(path.parent),
    "config.json": lambda path: load_backbone(str(path.parent)),
    "tokenizer.json": lambda path: load_backbone(str(path.parent)),
}


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's name is short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_fifo, "is no regular file, and only those are read"),
        (_socket, "is no regular file, and only those are read"),
        (lambda path: path.symlink_to("/dev/zero"), "is no regular file, and only those are read"),
        (lambda path: path.symlink_to("/dev/urandom"), "is no regular file, and only those"),
        (lambda path: path.mkdir(), "is a folder, not a file"),
    ],
    ids=["fifo", "socket", "zero", "random", "folder"],
)
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_regular_file_is_refused_at_once(
    name: str, make: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    if name == "weft.json":
        (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    if name in ("config.json", "tokenizer.json"):
        (tmp_path / "model.safetensors").write_bytes(b"")
    make(tmp_path / name)
    with pytest.raises(WeftError) as error:
        READERS[name](tmp_path / name)
    assert words in str(error.value) and str(tmp_path) in str(error.value)


def test_a_link_to_itself_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to("x")
    for read in (read_json, read_yaml, hash_file):
        with pytest.raises(WeftError, match="x can't be read: "):
            read(tmp_path / "x")


def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    for name, read in (("x.json", read_json), ("x.yaml", read_yaml)):
        with (tmp_path / name).open("wb") as file:  # sparse
            file.truncate(1 << 40)
        with pytest.raises(WeftError, match=r"has more than \d+ MiB, the most that is read of"):
            read(tmp_path / name)
