"""Names on weft's side of a column map: which there are, and which are slips for one of them."""

from __future__ import annotations

from collections.abc import Iterable

LOG_COLUMNS = ("user_id", "item_id", "timestamp", "rating")
ITEM_COLUMNS = ("item_id", "title")
SYNONYMS = {
    "user_id": "user users uid userid customer customer_id visitor visitor_id session session_id",
    "item_id": "item items iid itemid id product product_id asin parent_asin sku article_id",
    "timestamp": "time times date datetime when ts unix_time event_time created_at timestamps",
    "rating": "rate stars score",
    "title": "name item_name product_name item_title product_title movie_title",
}
HEADERS = {  # further words in files for what weft reads, which may be a text column of weft's too
    "user_id": "reviewer_id author_id",
    "item_id": "movie_id book_id business_id track_id artist_id song_id isbn stock_code",
    "timestamp": "unix_review_time review_time purchase_date order_date invoice_date",
}


def meant_column(name: str, known: Iterable[str]) -> str | None:
    """The one of weft's columns that `name` is a slip or another word for, if any."""
    plain = name.strip().casefold()
    for column in known:
        if plain != column and plain in SYNONYMS[column].split():
            return column
    for column in known:
        limit = 1 if len(column) < 7 else 2
        if name != column and _distance(plain, column) <= limit:
            return column
    return None


def likely_column(column: str, header: Iterable[str]) -> str:
    """The one name in a file's header that says `column` in other words ("" if not just one)."""
    words = {w.replace("_", "") for w in f"{column} {SYNONYMS[column]} {HEADERS[column]}".split()}
    likely = [one for one in header if one.strip().casefold().replace("_", "") in words]
    return likely[0] if len(likely) == 1 else ""


def _distance(left: str, right: str) -> int:
    """Edits (insert, delete, replace, swap neighbours) from one to the other."""
    before: list[int] = []
    last = list(range(len(right) + 1))
    for i, one in enumerate(left, 1):
        row = [i]
        for j, other in enumerate(right, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (one != other))
            if i > 1 and j > 1 and one == right[j - 2] and left[i - 2] == other:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, last = last, row
    return last[-1]
