"""JSON lines, plain or gzipped, with a column map."""

from __future__ import annotations

from weft.data.raw import RawLog
from weft.data.readers.records import Record, parse_json, read_items, read_log
from weft.data.source import LOG_COLUMNS, Source


def read_jsonl(source: Source) -> RawLog:
    """Objects with user_id, item_id, timestamp; items with item_id, title and further texts."""
    unit = source.time_unit or "s"
    fields = {role: role for role in LOG_COLUMNS} | dict(source.columns)
    if unit == "order":
        del fields["timestamp"]
    if source.items is not None:
        log = read_log(source.interactions, fields, (), parse_json)
        renamed = {theirs: ours for ours, theirs in source.item_columns.items()}

        def row(record: Record) -> Record:
            kept = {k: v for k, v in record.items() if k in renamed or k not in source.item_columns}
            return {renamed.get(key, key): value for key, value in kept.items()}

        return RawLog(log, read_items(source.items, row, parse_json), unit)
    texts = ("title", *(c for c in source.columns if c not in (*LOG_COLUMNS, "title")))
    return RawLog(read_log(source.interactions, fields, texts, parse_json), None, unit)
