"""Files that hold a table in a form that weft does not read: named by their first bytes."""

from __future__ import annotations

import re
from pathlib import Path

from weft.errors import DataError

XLS = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
PARQUET = b"PAR1"
KINDS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"PK\x03\x04.{26}(xl/|\[Content_Types\])", re.DOTALL),
     "an Excel workbook; save the sheet as CSV"),
    (re.compile(re.escape(XLS)), "an Excel workbook; save the sheet as CSV"),
    (re.compile(rb"PK\x03\x04"), "a zip archive; unpack it and name the file in it"),
    (re.compile(rb"7z\xbc\xaf|Rar!|\xfd7zXZ|BZh|\x28\xb5\x2f\xfd"),
     "a compressed archive; unpack it first (weft reads .gz as it is)"),
    (re.compile(rb"SQLite format 3"), "an SQLite database; export its table as CSV"),
    (re.compile(rb"\x89HDF"), "an HDF5 file; write its table as parquet or CSV"),
    (re.compile(rb"\x80[\x02-\x05]"), "a Python pickle, which weft never reads; write it as parquet"),
    (re.compile(rb"version https://git-lfs"),
     "a Git LFS pointer in the file's place; fetch the file itself (git lfs pull)"),
    (re.compile(rb"\s*<(!doctype html|html)", re.IGNORECASE),
     "a web page, perhaps one that asks before a download; fetch the file itself"),
)  # fmt: skip


def refuse_container(file: Path) -> None:
    """Raise `DataError` for a file whose beginning says that it is no table weft reads."""
    if not file.is_file():
        return
    with file.open("rb") as start:
        head = start.read(64)
    for pattern, what in KINDS:
        if pattern.match(head):
            raise DataError(f"{file} is {what}")
    if head.startswith(PARQUET) and file.suffix != ".parquet":
        raise DataError(f"{file} is a parquet file; give it a name that ends with .parquet")
