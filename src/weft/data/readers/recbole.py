"""RecBole atomic files: name.inter and name.item, tab-separated, with headers like user_id:token."""

from __future__ import annotations

from pathlib import Path

from weft.data.raw import RawLog, Table
from weft.data.readers.delimited import only_item_texts, read_table, rename
from weft.data.source import Source
from weft.errors import WeftError

TYPES = ("token", "token_seq", "float", "float_seq")


def read_recbole(source: Source) -> RawLog:
    """`interactions` is the .inter file or the folder with it; the .item file lies beside it.

    The title is the mapped column, or `title`, or the only column that ends in "title" or
    "name".
    """
    inter = _only(source.interactions, ".inter")
    beside = inter.with_suffix(".item")
    item = source.items or (beside if beside.is_file() else None)
    log = rename(_untyped(inter), source.columns)
    unit = source.time_unit or "s"
    if item is None:
        return RawLog(only_item_texts(log, source.columns), None, unit)
    items = _untyped(item)
    columns = dict(source.item_columns)
    if "title" not in columns and "title" not in items.columns():
        likely = [c for c in items.columns() if c.endswith(("title", "name"))]
        if len(likely) == 1:
            columns["title"] = likely[0]
    return RawLog(log, rename(items, columns), unit)


def _only(path: Path, suffix: str) -> Path:
    if not path.is_dir():
        return path
    found = sorted(path.glob(f"*{suffix}"))
    if len(found) != 1:
        raise WeftError(f"{path} has {len(found)} {suffix} files; name the one to read")
    return found[0]


def _untyped(file: Path) -> Table:
    """The table with its columns' types (`:token`, …) taken off their names."""
    table = read_table(file, "\t", quoted=False)
    columns: dict[str, str] = {}
    for typed in table.columns():
        name, colon, kind = typed.rpartition(":")
        if not colon or kind not in TYPES:
            raise WeftError(
                f"{file}, line 1: the header '{typed}' has no type; RecBole's headers are like"
                f" user_id:token, with one of {', '.join(TYPES)}"
            )
        columns[name] = typed
    return rename(table, columns)
