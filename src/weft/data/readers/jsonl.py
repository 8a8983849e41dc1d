"""JSON lines, or one JSON array, plain or gzipped, with a column map."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from weft.data.column_names import LOG_COLUMNS
from weft.data.raw import Table
from weft.data.readers.records import Record, parse_record, read_item_records, read_log
from weft.data.source import Source


def read_jsonl(source: Source, file: Path, columns: Mapping[str, str]) -> Table:
    """Objects with user_id, item_id, timestamp, and without an items file the item's texts."""
    fields = {role: role for role in LOG_COLUMNS} | dict(columns)
    if source.time_unit == "order":
        del fields["timestamp"]
    if source.minimum_rating is None:
        del fields["rating"]
    texts = ("title", *(c for c in columns if c not in (*LOG_COLUMNS, "title")))
    return read_log(
        file,
        fields,
        texts if source.items is None else (),
        parse_record,
        drop_bad=source.bad_rows == "drop",
        encoding=source.encoding,
    )


def read_jsonl_items(source: Source, file: Path, columns: Mapping[str, str]) -> Table:
    """Objects with item_id, title and further texts."""
    renamed = {theirs: ours for ours, theirs in columns.items()}

    def row(record: Record) -> Record:
        fields = {k: v for k, v in record.items() if k in renamed or k not in columns}
        return {renamed.get(key, key): value for key, value in fields.items()}

    return read_item_records(
        file,
        row,
        parse_record,
        drop_bad=source.bad_rows == "drop",
        encoding=source.encoding,
        item_field=columns.get("item_id", "item_id"),
    )
