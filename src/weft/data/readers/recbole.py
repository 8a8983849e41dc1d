"""RecBole atomic files: name.inter and name.item, with headers like user_id:token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import polars as pl

from weft.data.raw import RawLog, Table
from weft.data.readers.delimited import decoded, map_columns, only_item_texts, read_table
from weft.data.readers.mapped import read_items_file
from weft.data.source import Source
from weft.data.titles import likely_titles
from weft.errors import DataError, SettingError

TYPES = ("token", "token_seq", "float", "float_seq")
LISTS = ("item_id", "timestamp", "rating")  # RecBole calls their lists item_id_list, …
SEPARATORS = ("\t", ",", " ")


def read_recbole(source: Source) -> RawLog:
    """`interactions` is the .inter file or the folder with it; the .item file lies beside it.

    Fields are separated by what separates the header's: tabs, commas or spaces. Lists
    (`item_id_list:token_seq`) become rows (`lists.expand_lists`), with the target of their row
    (`item_id:token`) last. The title is the mapped column, or `title`, or the only column whose
    name is likely one.
    """
    inter = _only(source.interactions, ".inter")
    beside = inter.with_suffix(".item")
    item = source.items or (beside if beside.is_file() else None)
    log = map_columns(_with_lists(*_untyped(inter, source), source.columns), source.columns)
    unit = source.time_unit
    if item is None:
        return RawLog(only_item_texts(log, source.columns), None, unit)
    items = read_items_file(source, item, _read_items)
    title = items.called("title")
    notes: tuple[str, ...] = ()
    if "title" in items.names and "title" not in source.item_columns:
        notes = (f"{item}: column '{title}' is taken as the title",)
    return RawLog(log, items, unit, notes=notes)


def _read_items(source: Source, file: Path, columns: Mapping[str, str]) -> Table:
    items, _ = _untyped(file, source)
    columns = dict(columns)
    if "title" not in columns and "title" not in items.columns():
        likely = likely_titles(items.columns())
        if len(likely) == 1:
            columns["title"] = likely[0]
    return map_columns(items, columns)


def _only(path: Path, suffix: str) -> Path:
    if not path.is_dir():
        return path
    files = sorted(path.glob(f"*{suffix}"))
    if len(files) != 1:
        raise SettingError(f"{path} has {len(files)} {suffix} files; name the one to read")
    return files[0]


def _untyped(file: Path, source: Source) -> tuple[Table, dict[str, str]]:
    """The table with its columns' types (`:token`, …) taken off their names; and the types."""
    first = decoded(file, source.encoding).removeprefix(b"\xef\xbb\xbf").lstrip().split(b"\n", 1)[0]
    between = (mark for mark in SEPARATORS if mark.encode() in first.strip())
    separator = source.separator or next(between, "\t")
    if separator == " " and b"_seq" in first:
        raise DataError(
            f"{file}, line 1: spaces separate the columns here, and the values of a list"
            f" ({first.decode('utf-8', 'replace').strip()}); separate the columns by tabs"
        )
    table = read_table(
        file, separator, quoted=False, encoding=source.encoding, drop_bad=source.bad_rows == "drop"
    )
    columns, types = dict[str, str](), dict[str, str]()
    for typed in table.columns():
        name, colon, kind = typed.rpartition(":")
        if not colon or kind not in TYPES:
            raise DataError(
                f"{file}, line 1: the header '{typed}' has no type; RecBole's headers are like"
                f" user_id:token, with one of {', '.join(TYPES)}"
            )
        columns[name], types[name] = typed, kind
    untyped = map_columns(table, columns)
    return replace(untyped, header=tuple(columns)), types


def _with_lists(log: Table, types: Mapping[str, str], columns: Mapping[str, str]) -> Table:
    """The log whose declared lists of items (times, ratings) are polars lists of weft's names."""
    cells_of, names, gone = {}, dict(log.names), []
    for column in LISTS:
        mapped = columns.get(column)
        theirs = mapped or (column if types.get(column, "").endswith("_seq") else f"{column}_list")
        if not types.get(theirs, "").endswith("_seq"):
            continue
        parts = pl.col(theirs).str.strip_chars().str.split(" ")
        cells = parts.list.filter(pl.element() != "")
        target = column if column != theirs and types.get(column) in ("token", "float") else None
        if target is not None and mapped is None:
            cells = pl.concat_list(cells.fill_null([]), pl.col(target))
        cells_of[mapped or column] = cells
        gone += [theirs] if theirs != (mapped or column) else []
        names[mapped or column] = names.get(theirs, theirs)
    if not cells_of:
        return log
    return replace(log, frame=log.frame.with_columns(**cells_of).drop(gone), names=names)
