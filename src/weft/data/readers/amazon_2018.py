"""Amazon reviews of 2018: JSON lines, gzipped; "ratings only" as CSV, with the item first."""

from __future__ import annotations

from weft.data.raw import RawLog, Table
from weft.data.readers.amazon import is_ratings_table, item_row, read_ratings, read_reviews
from weft.data.readers.records import parse_json, read_items
from weft.data.source import Source

REVIEW = {
    "user_id": "reviewerID", "item_id": "asin", "timestamp": "unixReviewTime", "rating": "overall",
}  # fmt: skip


def read_amazon_2018(source: Source) -> RawLog:
    """X.json.gz or X_5.json.gz (or the ratings' X.csv) and meta_X.json.gz.

    The official metadata repeats some items; the first row of each counts.
    """
    file = source.interactions
    if is_ratings_table(file):
        log = read_ratings(file, ("item_id", "user_id", "rating", "timestamp"))
    else:
        log = read_reviews(file, REVIEW, parse_json)
    items: Table | None = None
    if source.items is not None:
        items = read_items(
            source.items, lambda r: item_row(r, "asin", "brand", "category"), parse_json
        )
    return RawLog(log, items, repeated_items="first")
