"""What the Amazon review sets of all years share."""

from __future__ import annotations

import html
import re
from pathlib import Path

from weft.data.raw import Table
from weft.data.readers.cells import as_text
from weft.data.readers.delimited import read_table, rename
from weft.data.readers.records import Parse, Record, read_items, read_log
from weft.data.source import Source

TAG = re.compile(r"<[^<>]{1,500}>")
SPACE = re.compile(r"\s+")


def is_ratings_table(file: Path) -> bool:
    """Is it one of the "ratings only" files, which are comma-separated?"""
    return file.name.removesuffix(".gz").endswith(".csv")


def read_ratings(source: Source, order: tuple[str, str, str, str]) -> Table:
    """A "ratings only" file: no header, four columns in this order."""
    table = read_table(source.interactions, ",", header=False, drop_bad=source.bad_rows == "drop")
    return rename(table, {column: str(place) for place, column in enumerate(order, 1)})


def read_reviews(source: Source, fields: dict[str, str], parse: Parse) -> Table:
    """The interactions in a file of reviews."""
    if source.minimum_rating is None:
        fields = {column: field for column, field in fields.items() if column != "rating"}
    return read_log(source.interactions, fields, (), parse, drop_bad=source.bad_rows == "drop")


def read_meta(source: Source, key: str, brand: str, category: str, parse: Parse) -> Table | None:
    """The items in a file of metadata, if there is one."""
    if source.items is None:
        return None
    return read_items(
        source.items,
        lambda record: item_row(record, key, brand, category),
        parse,
        drop_bad=source.bad_rows == "drop",
        item_field=key,
    )


def clean(value: object) -> str:
    """One line of plain text: entities and tags resolved, white space single.

    Scraped pages put scripts into some titles; such a text counts as missing.
    """
    text = as_text(value)
    if "getTime()" in text or "function(" in text:
        return ""
    if "&" in text:
        text = html.unescape(text)
    if "<" in text:
        text = TAG.sub(" ", text)
    return SPACE.sub(" ", text).strip()


def joined(values: object) -> str:
    """A list of category names (or of such lists: the first) as "A, B, C"."""
    if isinstance(values, list | tuple) and values and isinstance(values[0], list | tuple):
        values = values[0]
    if not isinstance(values, list | tuple):
        return clean(values)
    names: list[str] = []
    for value in values:
        if "</span>" in as_text(value):  # 2018: page furniture follows the category path
            break
        names.append(clean(value))
    return ", ".join(name for name in names if name)


def item_row(record: Record, key: str, brand: str, category: str) -> Record:
    """The catalogue columns of one metadata record."""
    return {
        "item_id": record.get(key),
        "title": clean(record.get("title")),
        "brand": clean(record.get(brand)),
        "category": joined(record.get(category)),
        "description": clean(record.get("description")),
    }
