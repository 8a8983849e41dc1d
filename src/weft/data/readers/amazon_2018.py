"""Amazon reviews of 2018: JSON lines, gzipped; "ratings only" as CSV, with the item first."""

from __future__ import annotations

from weft.data.raw import RawLog
from weft.data.readers.amazon import is_ratings_table, read_meta, read_ratings, read_reviews
from weft.data.readers.records import parse_record
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
        log = read_ratings(source, ("item_id", "user_id", "rating", "timestamp"))
    else:
        log = read_reviews(source, REVIEW, parse_record)
    items = read_meta(source, "asin", "brand", "category", parse_record)
    return RawLog(log, items, repeated_items="first")
