"""Bytes and lines of plain or gzipped files, with errors that name the file."""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from weft.errors import DataError, NotFoundError

WINDOWS = re.compile(
    rb"[\x80\x82-\x84\x86-\x8c\x8e\x91-\x9c\x9e\x9f]"
)  # control characters in latin-1
GZIP = b"\x1f\x8b"
ENCODING = "name its encoding, such as --encoding latin-1"


def open_binary(file: Path) -> gzip.GzipFile | None:
    """The file unzipped if its first bytes say gzip (whatever its name), else None."""
    if not file.is_file():
        if not file.exists():
            raise NotFoundError(f"{file} does not exist")
        what = "is a folder, not a file" if file.is_dir() else "is no regular file"
        raise DataError(f"{file} {what}")
    with file.open("rb") as start:
        head = start.read(2)
    if not head:
        raise DataError(f"{file} is empty")
    return gzip.open(file, "rb") if head == GZIP else None


def read_all(file: Path) -> bytes:
    """The whole content, unzipped. Raises `NotFoundError`, and `DataError` if it is empty or no
    whole gzip."""
    unzipped = open_binary(file)
    if unzipped is None:
        return file.read_bytes()
    try:
        with unzipped:
            return unzipped.read()
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{file} is a broken or truncated gzip file: {error}") from None


def decode(file: Path, data: bytes, encoding: str | None) -> str:
    """The text of a file's content; UTF-8 unless `encoding` says otherwise.

    What is UTF-8 beyond ASCII is read so whatever `encoding` says: of two files one may be.
    """
    if encoding is None:
        refuse_utf16(file, data)
    elif is_utf8(data):
        encoding = None
    elif is_latin_1(encoding) and (byte := WINDOWS.search(data)):
        line = data.count(b"\n", 0, byte.start()) + 1
        raise DataError(
            f"{file}, line {line}: {encoding} has no character for the byte {byte[0].hex()}, and"
            " Windows has one: read it with --encoding cp1252"
        )
    try:
        return data.decode(encoding or "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file}, line {line}: not {encoding or 'UTF-8'} text ({error.reason}); {ENCODING}"
        ) from None
    except UnicodeError as error:
        raise DataError(f"{file} is not {encoding or 'UTF-8'} text ({error}); {ENCODING}") from None


def is_latin_1(encoding: str) -> bool:
    """Is it ISO 8859-1, which people say for what Windows writes (cp1252)?"""
    return codecs.lookup(encoding).name == "iso8859-1"


def refuse_utf16(file: Path, data: bytes) -> None:
    """Raise `DataError` for what a mark at its beginning calls UTF-16."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{file} is UTF-16 text; read it with --encoding utf-16")


def is_utf8(data: bytes) -> bool:
    """Are there characters beyond ASCII, all in UTF-8?"""
    if data.isascii():
        return False
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def read_lines(
    file: Path, encoding: str | None = None, *, errors: str = "strict"
) -> Iterator[tuple[int, str]]:
    """(line number from 1, line without its end) for every non-blank line.

    UTF-8 unless `encoding` says otherwise; `errors` as in `bytes.decode`.
    """
    if encoding is not None:
        for number, text in enumerate(decode(file, read_all(file), encoding).split("\n"), 1):
            if text.strip():
                yield number, text.strip("\r\n").removeprefix("\ufeff")
        return
    unzipped = open_binary(file)
    number = 0
    try:
        with unzipped or file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if number == 1:
                    refuse_utf16(file, line)
                text = line.decode("utf-8-sig" if number == 1 else "utf-8", errors).strip("\r\n")
                if text.strip():
                    yield number, text
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file}, line {number}: not UTF-8 text ({error.reason}); {ENCODING}"
        ) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{file} is a broken or truncated gzip file, after line {number}: {error}"
        ) from None
