"""Rows that are lists of items (one row a user is a usual form) -> one row an interaction."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import polars as pl

from weft.artifacts.documents import check_nesting, decode_json
from weft.data.column_names import LOG_COLUMNS
from weft.data.faults import Faults
from weft.data.raw import BadRows, RawLog, Table, read_columns
from weft.data.source import Source
from weft.data.written_times import is_iso, read_iso
from weft.errors import DataError

BRACKETS = re.compile(r"\s*[\[(].*[\])]\s*$", re.DOTALL)
BESIDE = re.compile(r"['\"]\s+['\"]")
WRAPPED = re.compile(r"\s*[A-Za-z_.]+\(\s*[\[{(].*\)\s*$", re.DOTALL)  # frozenset({…}), array([…])
PADS = ("0", "-1", "<pad>", "<PAD>", "[PAD]", "PAD", "pad")
SET = re.compile(r"\s*\{.*[,:].*\}\s*$", re.DOTALL)  # not {0A1B-…}, an id in braces
SHOWN = 60  # characters of a cell in a message


def expand_lists(raw: RawLog, source: Source) -> RawLog:
    """The log with a row for every item of a list in column `item_id`, in the order of the list.

    A list is one of the column's type, a JSON or Python list in text, or with
    `source.list_separator` any text. Lists in other columns go along and must be as long; a time,
    rating or user that is one value counts for the whole list. Raises `DataError` if a list's
    columns differ in length, if some cells are lists and others not, if one title stands beside
    several items, or if a row of a user repeats the one before and goes on (prefixes, as made for
    training).
    """
    log = raw.interactions
    if "item_id" not in log.columns():
        return raw
    kind = log.columns()["item_id"]
    if isinstance(kind, pl.List | pl.Array):
        pass
    elif kind != pl.String or not (source.list_separator or _has_lists(log)):
        return raw
    frame = read_columns(log, pl.all())
    if raw.items is not None:
        frame = frame.select([column for column in frame.columns if column in LOG_COLUMNS])
    columns = {c: _as_lists(frame[c], c, log, source) for c in frame.columns}
    lists = columns["item_id"]
    if lists is None:
        return raw
    if columns.get("user_id") is not None:
        raise log.error(
            0, "user_id", f"= {_short(frame['user_id'][0])} is a list; a row has one user"
        )
    faults = _faults(columns, lists, frame["item_id"], log)
    bad = faults.settle(faults.mask(), source.bad_rows)
    lengths = pl.Series(np.where(faults.mask(), 0, lists.list.len().fill_null(0).to_numpy()))
    for column in frame.columns:
        if column in LOG_COLUMNS or columns[column] is not None:
            continue
        wrong = (lengths > 1) & (frame[column].cast(pl.String).fill_null("") != "")
        if wrong.any():
            row = int(wrong.arg_true()[0])
            what = f"is one text for {lengths[row]} items; give the items' texts in a file of items"
            raise log.error(row, column, f"{what} (--items)")
    _refuse_prefixes(frame["user_id"], lists, log)
    return _exploded(raw, frame, columns, lengths, bad)


def _faults(
    columns: dict[str, pl.Series | None], lists: pl.Series, cells: pl.Series, log: Table
) -> Faults:
    """Rows without a list, and rows whose lists differ in length."""
    faults = Faults(log, len(lists))

    def no_list(row: int) -> str:
        return "is empty" if not cells[row] else f"= {_short(cells[row])} is no list"

    faults.add(lists.is_null().to_numpy(), "item_id", no_list)
    lengths = lists.list.len().fill_null(0)
    for column, other in columns.items():
        if other is None or column == "item_id":
            continue
        sizes = other.list.len().fill_null(0)
        words = partial(_unlike, sizes, lengths, log.called("item_id"))
        faults.add(((sizes != lengths) & (lengths > 0)).to_numpy(), column, words)
    return faults


def _unlike(sizes: pl.Series, lengths: pl.Series, items: str, row: int) -> str:
    return f"has {sizes[row]} values for the {lengths[row]} items of column '{items}'"


def _exploded(
    raw: RawLog,
    frame: pl.DataFrame,
    columns: dict[str, pl.Series | None],
    lengths: pl.Series,
    bad: BadRows,
) -> RawLog:
    log = raw.interactions
    origin = np.repeat(np.arange(frame.height), lengths.to_numpy())
    if not len(origin):
        raise DataError(f"{log.file}: there is no interaction in it (its lists are empty)")
    rows = pl.Series(origin, dtype=pl.UInt32)
    data = {}
    for column, values in columns.items():
        if values is None:
            data[column] = frame[column].gather(rows)
        else:
            filled = values.filter((lengths > 0).fill_null(False))
            data[column] = filled.explode() if len(filled) else filled.list.get(0)
    table = replace(
        log,
        frame=pl.DataFrame(data).lazy(),
        place=lambda row: log.place(int(origin[row])),
        bad=log.bad + bad,
    )
    note = (
        f"{log.file}: column '{log.called('item_id')}' holds lists of items, read as sequences:"
        f" {frame.height:,} rows, {len(origin):,} interactions"
    )
    notes = (note, *_padding(columns["item_id"], log))
    return replace(raw, interactions=table, notes=(*raw.notes, *notes))


def _padding(lists: pl.Series | None, log: Table) -> tuple[str, ...]:
    """A note if lists were filled up to one length with an id that stands for none."""
    if lists is None:
        return ()
    texts = lists.cast(pl.List(pl.String))
    for pad in PADS:
        at_edge = (texts.list.first() == pad) | (texts.list.last() == pad)
        twice = texts.list.count_matches(pad) > 1
        count = int((at_edge & twice).fill_null(False).sum())
        if count:
            note = (
                f"{log.file}: {count:,} lists in column '{log.called('item_id')}' begin or end with"
                f" several '{pad}', which count as interactions; if they only fill the lists up, leave"
                " them out of the file"
            )
            return (note,)
    return ()


def _has_lists(log: Table) -> bool:
    starts = pl.col("item_id").str.contains(r"^\s*([A-Za-z_.]+\(\s*)?[\[({]").any()
    return bool(read_columns(log, starts).item())


def _as_lists(column: pl.Series, name: str, log: Table, source: Source) -> pl.Series | None:
    """The column as lists of text or numbers, or None if it holds single values."""
    if isinstance(column.dtype, pl.List | pl.Array):
        if isinstance(column.dtype.inner, pl.List | pl.Array | pl.Struct):
            raise log.error(
                0, name, f"holds {column.dtype}; a list's values are ids, times or ratings"
            )
        return column.cast(pl.List(column.dtype.inner))
    if column.dtype != pl.String:
        return None
    texts = column.to_list()
    if name == "item_id":
        _refuse_sets(texts, log)
    parsed = [None if text is None else _list_in(text) for text in texts]
    if all(text is None or not text.strip() or BRACKETS.match(text) for text in texts):
        parsed = [_loose(text, name, row, log) if values is None and text else values
                  for row, (values, text) in enumerate(zip(parsed, texts, strict=True))]  # fmt: skip
    lists = sum(values is not None for values in parsed)
    if lists:
        if source.bad_rows == "drop" and name in LOG_COLUMNS and 2 * lists >= len(texts):
            return pl.Series(name, parsed, dtype=pl.List(pl.String))  # the others are bad rows
        for row, (values, text) in enumerate(zip(parsed, texts, strict=True)):
            if values is None and text is not None and text.strip():
                if name not in LOG_COLUMNS:  # a text may look like a list
                    return None
                raise log.error(
                    row, name, f"= {_short(text)} is no list, but other rows have lists there"
                )
        return pl.Series(name, parsed, dtype=pl.List(pl.String))
    if source.list_separator is None or name not in LOG_COLUMNS or name == "user_id":
        return None
    mark = source.list_separator
    if name == "timestamp" and _is_one_time(column, mark, source):
        return None
    split = column.str.strip_chars().str.split(mark)
    if name != "item_id" and (split.list.len() <= 1).all():
        return None
    return pl.Series(
        name,
        [v and [one.strip() for one in v if one.strip()] for v in split.to_list()],
        dtype=pl.List(pl.String),
    )


def _is_one_time(column: pl.Series, mark: str, source: Source) -> bool:
    """Is the separator of lists a part of each single time, as in 2014-01-01 10:15?"""
    if source.time_format is not None:
        return mark in source.time_format
    text = column.drop_nulls().filter(column.drop_nulls().str.strip_chars() != "").head(1)
    return len(text) > 0 and is_iso(text) and read_iso(text)[0].null_count() == 0


def _list_in(text: str) -> list[str | None] | None:
    """The values of a JSON or Python list as text, or None if `text` is no such list."""
    text = text.strip()
    if not BRACKETS.match(text):
        return None
    try:
        values = decode_json(text)
    except json.JSONDecodeError:
        if _is_numpy(text):
            return None
        try:
            check_nesting(text)
            values = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    except ValueError:
        return None
    if not isinstance(values, list | tuple) or any(
        isinstance(v, bool | list | tuple | dict | set) for v in values
    ):
        return None
    return [None if value is None else str(value) for value in values]


def _refuse_sets(texts: list[str | None], log: Table) -> None:
    for row, text in enumerate(texts):
        if text is not None and SET.match(text):
            raise log.error(
                row, "item_id", f"= {_short(text)} is a set or an object, which has no order"
            )
        if text is not None and WRAPPED.match(text):
            raise log.error(
                row,
                "item_id",
                f"= {_short(text)} is a Python object in text; write its values as a list: ['a', 'b']",
            )


def _is_numpy(text: str) -> bool:
    """Do texts stand side by side, as numpy writes them? Python would join them to one."""
    if not BESIDE.search(text):
        return False
    try:
        kinds = [token.type for token in tokenize.generate_tokens(io.StringIO(text).readline)]
    except (tokenize.TokenError, SyntaxError):
        return False
    kinds = [kind for kind in kinds if kind not in (tokenize.NL, tokenize.NEWLINE)]
    return any(pair == (tokenize.STRING, tokenize.STRING) for pair in pairwise(kinds))


def _loose(text: str, column: str, row: int, log: Table) -> list[str | None] | None:
    """The values of a list without quotes or commas: [B001, B002], numpy's ['B001' 'B002']."""
    inside = text.strip()[1:-1].strip()
    if not inside:
        return [] if BRACKETS.match(text) else None
    if any(mark in inside for mark in "[({") and not _is_numpy(text):
        raise log.error(
            row,
            column,
            f"= {_short(text)} holds lists in a list; a list's values are ids, times or ratings, each in"
            " a column of its own",
        )
    if "..." in inside:
        raise log.error(row, column, f"= {_short(text)} was cut where it was written ('...')")
    if _is_numpy(text):
        return [
            single or double for single, double in re.findall(r"'([^']*)'|\"([^\"]*)\"", inside)
        ]
    values = inside.split(",") if "," in inside else inside.split()
    return [value.strip(" '\"") for value in values]


def _refuse_prefixes(users: pl.Series, lists: pl.Series, log: Table) -> None:
    """Rows of one user of which each repeats the one before would count interactions twice."""
    last: dict[object, tuple[int, list[object]]] = {}
    if users.n_unique() == len(users):
        return
    for row, (user, items) in enumerate(zip(users.to_list(), lists.to_list(), strict=True)):
        if not items:
            continue
        earlier, before = last.get(user, (0, []))
        short, long = sorted((before, items), key=len)
        if 2 <= len(short) < len(long) and long[: len(short)] == short:
            raise log.error(
                row,
                "item_id",
                f"goes on from the list of {log.place(earlier)} for the same user ('{user}'): such rows"
                " would count interactions twice; keep each user's longest one",
            )
        last[user] = (row, items)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
