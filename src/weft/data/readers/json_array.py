"""A file that is one JSON array of objects."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable
from pathlib import Path

from weft.data.readers.files import decode, open_binary, read_all
from weft.errors import DataError

PEEK = 4096  # bytes in which the first sign of content is looked for


def is_array(file: Path, encoding: str | None) -> bool:
    """Does the content begin like an array of objects?"""
    unzipped = open_binary(file)
    try:
        with unzipped or file.open("rb") as start:
            head = start.read(PEEK)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return False  # the reader of lines says what is wrong
    if encoding is not None:
        head = head.decode(encoding, "ignore").encode("utf-8", "ignore")
    return re.match(rb"\s*\[\s*[{\]]", head.removeprefix(b"\xef\xbb\xbf")) is not None


def read_array(file: Path, encoding: str | None, parse: Callable[[str], object]) -> list[object]:
    """The array's entries. Raises `DataError` if the file isn't one whole array."""
    text = decode(file, read_all(file), encoding)
    try:
        values = parse(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{file}, line 1: not a readable record, nor a whole JSON array of them ({reason})"
        ) from None
    if not isinstance(values, list):
        raise DataError(f"{file} is a {type(values).__name__}, not a JSON array of objects")
    return values
