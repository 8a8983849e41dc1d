"""JSON and YAML from outside: one reader, strict, whose costs are bounded before it parses.

Only regular files of a bounded size are read, as UTF-8. Neither format may name a key twice,
nest deeper than `MOST_DEPTH`, or hold a number that is not finite or has more than `MOST_DIGITS`
digits. What is wrong is one sentence that names the file.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
from pathlib import Path
from typing import Any

from weft.artifacts.reasons import reason
from weft.errors import DataError, NotFoundError, SettingError

MOST_JSON = 256 << 20  # bytes; the largest tokenizer.json in use have some 40 MB
MOST_DEPTH = 64
MOST_DIGITS = 100  # of a whole number
_MOST_NUMBER = 1000  # characters of any number

Source = Path | str
"""Where a text comes from, for messages: a file, or words such as "log.jsonl, line 3"."""

_NESTING = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # an escape that may be half a character


class _RefusedError(ValueError):
    """What a document holds that is not read."""


def open_regular(path: Path) -> int:
    """A descriptor for reading a regular file; anything else is a `WeftError`, without waiting."""
    path = Path(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        raise NotFoundError(f"{path} does not exist") from None
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise DataError(f"{path} is no regular file, and only those are read") from None
        raise DataError(f"{path} can't be read: {reason(error)}") from None
    except ValueError:
        raise SettingError(f"{str(path)!a} is no path of a file") from None
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise DataError(f"{path} is a folder, not a file")
    raise DataError(f"{path} is no regular file, and only those are read")


def read_text(path: Path, most: int, kind: str) -> str:
    """A regular file of at most `most` bytes, as UTF-8; `kind` is what it should hold."""
    descriptor = open_regular(path)
    with os.fdopen(descriptor, "rb") as file:
        try:
            raw = file.read(most + 1)
        except OSError as error:
            raise DataError(f"{path} can't be read: {reason(error)}") from None
    if len(raw) > most:
        raise DataError(f"{path} has more than {most >> 20} MiB, the most that is read of {kind}")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not valid {kind}: it is no UTF-8 text (byte {error.start})"
        ) from None


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing or broken one is a `WeftError` that names it."""
    return parse_json(read_text(path, MOST_JSON, "JSON"), path)


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that must hold an object."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError(f"{path} holds no JSON object")
    return value


def parse_json(text: str | bytes, source: Source) -> Any:
    """A JSON text that must hold no half of a surrogate pair either."""
    try:
        plain = text.decode("utf-8") if isinstance(text, bytes) else text
        value = decode_json(plain)
        if _SURROGATE.search(plain):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeError:
        raise DataError(f"{source} is not valid JSON: it is no UTF-8 text") from None
    except _RefusedError as error:
        raise DataError(f"{source} is not valid JSON: {error}") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise DataError(f"{source} is not valid JSON: {_reason(error)} ({place})") from None
    return value


def decode_json(text: str) -> Any:
    """A JSON text, for readers of many lines: raises `ValueError` in a few words."""
    if text.startswith("\ufeff"):
        raise _RefusedError("it starts with a byte order mark; save it as UTF-8 without one")
    check_nesting(text)
    return _DECODER.decode(text)


def check_nesting(text: str) -> None:
    """`ValueError` where brackets outside of strings nest deeper than `MOST_DEPTH`."""
    if text.count("[") + text.count("{") <= MOST_DEPTH:
        return
    depth = 0
    for match in _NESTING.finditer(text):
        sign = text[match.start()]
        if sign in "[{":
            depth += 1
            if depth > MOST_DEPTH:
                raise _RefusedError(f"it nests deeper than {MOST_DEPTH} levels")
        elif sign in "]}":
            depth -= 1


def whole_number(text: str) -> int:
    """An integer of at most `MOST_DIGITS` digits."""
    if len(text) > MOST_DIGITS:
        raise _RefusedError(f"a whole number has more than {MOST_DIGITS} digits")
    return int(text)


def finite_number(text: str) -> float:
    """A float that is finite."""
    if len(text) > _MOST_NUMBER:
        raise _RefusedError(f"a number has more than {_MOST_NUMBER} characters")
    value = float(text)
    if not math.isfinite(value):
        raise _RefusedError(f"{text} is no finite number")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _RefusedError(f"it names {ascii(key)[:80]} twice")
            seen.add(key)
    return values


def _reason(error: json.JSONDecodeError) -> str:
    return "it ends too early" if error.pos >= len(error.doc.rstrip()) else error.msg


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique,
    parse_int=whole_number,
    parse_float=finite_number,
    parse_constant=finite_number,
)
