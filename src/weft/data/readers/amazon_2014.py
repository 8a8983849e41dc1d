"""Amazon reviews of 2014: JSON or Python-literal lines, gzipped; "ratings only" as CSV."""

from __future__ import annotations

from weft.data.raw import RawLog
from weft.data.readers.amazon import is_ratings_table, read_meta, read_ratings, read_reviews
from weft.data.readers.records import parse_literal
from weft.data.source import Source

REVIEW = {
    "user_id": "reviewerID", "item_id": "asin", "timestamp": "unixReviewTime", "rating": "overall",
}  # fmt: skip


def read_amazon_2014(source: Source) -> RawLog:
    """reviews_X.json.gz (or ratings_X.csv) and meta_X.json.gz."""
    file = source.interactions
    if is_ratings_table(file):
        log = read_ratings(source, ("user_id", "item_id", "rating", "timestamp"))
    else:
        log = read_reviews(source, REVIEW, parse_literal)
    items = read_meta(source, "asin", "brand", "categories", parse_literal)
    return RawLog(log, items)
