"""Amazon reviews of 2023: JSON lines, perhaps gzipped; items are parents, times milliseconds."""

from __future__ import annotations

from weft.data.raw import RawLog
from weft.data.readers.amazon import is_ratings_table, read_meta, read_reviews
from weft.data.readers.delimited import map_columns, read_table
from weft.data.readers.records import parse_record
from weft.data.source import Source

REVIEW = {
    "user_id": "user_id", "item_id": "parent_asin", "timestamp": "timestamp", "rating": "rating",
}  # fmt: skip


def read_amazon_2023(source: Source) -> RawLog:
    """X.jsonl (or the ratings' X.csv, which has a header) and meta_X.jsonl."""
    file = source.interactions
    if is_ratings_table(file):
        log = map_columns(read_table(file, ",", drop_bad=source.bad_rows == "drop"), REVIEW)
    else:
        log = read_reviews(source, REVIEW, parse_record)
    items = read_meta(source, "parent_asin", "store", "categories", parse_record)
    return RawLog(log, items, "ms", repeated_items="first")
