"""Bytes and lines of plain or gzipped files, with errors that name the file."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from weft.errors import WeftError

GZIP = b"\x1f\x8b"


def open_binary(file: Path) -> gzip.GzipFile | None:
    """The file unzipped if its first bytes say gzip (whatever its name), else None."""
    if not file.is_file():
        raise WeftError(
            f"{file} {'is a folder, not a file' if file.is_dir() else 'does not exist'}"
        )
    with file.open("rb") as start:
        head = start.read(2)
    if not head:
        raise WeftError(f"{file} is empty")
    return gzip.open(file, "rb") if head == GZIP else None


def read_all(file: Path) -> bytes:
    """The whole content, unzipped. Raises `WeftError` if missing, empty, or a broken gzip."""
    unzipped = open_binary(file)
    if unzipped is None:
        return file.read_bytes()
    try:
        with unzipped:
            return unzipped.read()
    except (EOFError, OSError, zlib.error) as error:
        raise WeftError(f"{file} is a broken or truncated gzip file: {error}") from None


def read_lines(file: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, line without its end) for every non-blank line; UTF-8."""
    unzipped = open_binary(file)
    number = 0
    try:
        with unzipped or file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip("\r\n")
                if text.strip():
                    yield number, text
    except UnicodeDecodeError as error:
        raise WeftError(f"{file}, line {number}: not UTF-8 text ({error.reason})") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise WeftError(
            f"{file} is a broken or truncated gzip file, after line {number}: {error}"
        ) from None
