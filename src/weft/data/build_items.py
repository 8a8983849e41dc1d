"""A reader's table of items (or its log) -> the catalogue's rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import polars as pl

from weft.data.column_names import LOG_COLUMNS
from weft.data.faults import Faults
from weft.data.ids import id_column, list_note, space_note, spreadsheet_note
from weft.data.missing import blank_titles, is_word, means_none
from weft.data.raw import NO_BAD_ROWS, BadRows, RawLog, Table, read_columns
from weft.data.source import Faulty
from weft.data.texts import text_column


@dataclass(frozen=True, eq=False)
class Items:
    """A catalogue's frame (`item_id` unique and not empty, `title`, texts: all strings, no nulls)."""

    frame: pl.DataFrame
    repeated: int = 0  # rows left out because their item has one already
    bad: BadRows = NO_BAD_ROWS
    notes: tuple[str, ...] = ()


def build_items(raw: RawLog, bad_rows: Faulty, *, checked: bool = True) -> Items:
    """The rows of the items' table; without one, each item of the log with its first row's texts.

    Raises `DataError` for an empty id, and for a second row of an item unless the format's files
    are known to repeat rows; with `bad_rows` "drop" the first row counts. `checked`: words for a
    missing value (see `missing`) count as one.
    """
    table = raw.items or raw.interactions
    table.require("item_id", option="--column" if raw.items is None else "--item-column")
    others = LOG_COLUMNS if raw.items is None else ("item_id",)
    texts = [column for column in table.columns() if column not in others]
    item, note = id_column("item_id", table)
    frame = read_columns(
        table,
        item.alias("item_id"),
        *(text_column(table.file, c, table.columns()[c]) for c in texts),
    )
    if "title" not in frame.columns:
        frame = frame.insert_column(1, pl.repeat("", frame.height, eager=True).alias("title"))
    nameless = (frame["item_id"].is_null() | (frame["item_id"] == "")).fill_null(True)
    if raw.items is None:  # the log's own rows: build_domain looks for those without an item
        if nameless.any():
            frame = frame.filter(~nameless)
        frame = frame.unique("item_id", keep="first", maintain_order=True)
        return _items(frame, note, table, checked=checked)
    faults = Faults(table, frame.height)
    faults.add(nameless.to_numpy(), "item_id", "is empty")
    if checked and (word := is_word(frame["item_id"])).any():
        ids = frame["item_id"]
        faults.add(word.to_numpy(), "item_id", lambda row: means_none(ids[row]))
        nameless |= word
    repeated = ~frame["item_id"].is_first_distinct() & ~nameless
    if repeated.any() and raw.repeated_items == "error" and bad_rows == "fail":
        faults.add(repeated.to_numpy(), "item_id", _Repeated(frame["item_id"], table))
    bad = faults.settle(faults.mask(), bad_rows)
    if nameless.any() or repeated.any():
        frame = frame.filter(~(nameless | repeated))
    items = _items(frame, note, table, checked=checked)
    return replace(items, repeated=int(repeated.sum()), bad=table.bad + bad)


def _items(frame: pl.DataFrame, note: str, table: Table, *, checked: bool) -> Items:
    if not checked:
        return Items(frame)
    ids = frame["item_id"]
    frame, blank = blank_titles(frame, table)
    of_ids = (spreadsheet_note(ids, table, "item_id"), list_note(ids, table))
    notes = (note, *of_ids, space_note(ids, table, "item_id"), blank)
    return Items(frame, notes=tuple(one for one in notes if one))


@dataclass(frozen=True, eq=False)
class _Repeated:
    """What is wrong with a second row of an item."""

    ids: pl.Series
    table: Table

    def __call__(self, row: int) -> str:
        earlier = int((self.ids == self.ids[row]).arg_true()[0])
        return f"= {self.ids[row]!r} has a row already ({self.table.place(earlier)})"
