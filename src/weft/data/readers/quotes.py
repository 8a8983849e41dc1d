"""Is every quote of a delimited text where CSV has it? Then a fast reader reads what Python does."""

from __future__ import annotations

import numpy as np
import polars as pl

QUOTE = b'"'
BLOCK = 1 << 20  # bytes that are looked at together: what the processor's cache holds


def is_well_formed(data: bytes, separator: str) -> bool:
    """Does each quote open a field, close one, or stand doubled inside a quoted one?

    Quotes are numbered from 0. If every even one stands at a field's beginning (or right after
    a quote: a doubled one), and every odd one at a field's end (or right before a quote), then
    inside and outside alternate as RFC 4180 says.
    """
    if QUOTE not in data:
        return True
    text = np.frombuffer(data, dtype=np.uint8)
    edge = np.zeros(256, dtype=bool)
    edge[[ord(separator), ord("\n"), ord("\r"), QUOTE[0]]] = True
    start, last = (3 if data.startswith(b"\xef\xbb\xbf") else 0), len(text) - 1
    passed = 0  # quotes before this block
    for block in range(0, len(text), BLOCK):
        where = np.flatnonzero(text[block : block + BLOCK] == QUOTE[0]) + block
        opening, closing = where[passed % 2 :: 2], where[1 - passed % 2 :: 2]
        begins = edge[text[np.maximum(opening - 1, 0)]]
        if not begins.all() and not (begins | (opening == start)).all():
            return False
        ends = edge[text[np.minimum(closing + 1, last)]]
        if not ends.all() and not (ends | (closing == last)).all():
            return False
        passed += len(where)
    return passed % 2 == 0


def rows_in_cells(frame: pl.DataFrame, separator: str) -> tuple[int, list[int]]:
    """How many cells hold a line break and then a line with as many fields as a row; their rows.

    Such a cell is well-formed CSV, and perhaps what two stray quotes made of several rows.
    """
    if frame.width < 3:
        return 0, []
    rows = []
    for column in frame.columns:
        broken = frame[column].str.contains("\n", literal=True).fill_null(False).arg_true()
        for row in broken.to_list():
            later = frame[column][row].split("\n")[1:]
            if any(line.count(separator) == frame.width - 1 for line in later):
                rows.append(row)
    return len(rows), sorted(rows)
