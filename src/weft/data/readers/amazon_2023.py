"""Amazon reviews of 2023: JSON lines, perhaps gzipped; items are parents, times milliseconds."""

from __future__ import annotations

from weft.data.raw import RawLog, Table
from weft.data.readers.amazon import is_ratings_table, item_row, read_reviews
from weft.data.readers.delimited import read_table, rename
from weft.data.readers.records import parse_json, read_items
from weft.data.source import Source

REVIEW = {
    "user_id": "user_id", "item_id": "parent_asin", "timestamp": "timestamp", "rating": "rating",
}  # fmt: skip


def read_amazon_2023(source: Source) -> RawLog:
    """X.jsonl (or the ratings' X.csv, which has a header) and meta_X.jsonl."""
    file = source.interactions
    if is_ratings_table(file):
        log = rename(read_table(file, ","), REVIEW)
    else:
        log = read_reviews(file, REVIEW, parse_json)
    items: Table | None = None
    if source.items is not None:
        items = read_items(
            source.items, lambda r: item_row(r, "parent_asin", "store", "categories"), parse_json
        )
    return RawLog(log, items, "ms", repeated_items="first")
