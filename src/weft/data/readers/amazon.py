"""What the Amazon review sets of all years share."""

from __future__ import annotations

import html
import re
from pathlib import Path

from weft.data.raw import Table
from weft.data.readers.cells import as_text
from weft.data.readers.delimited import map_columns, read_table
from weft.data.readers.records import Parse, Record, read_item_records, read_log
from weft.data.source import Source

TAG = re.compile(r"<[^<>]{1,500}>")
SPACE = re.compile(r"\s+")


def is_ratings_table(file: Path) -> bool:
    """Is it one of the "ratings only" files, which are comma-separated?"""
    return file.name.removesuffix(".gz").endswith(".csv")


def read_ratings(source: Source, order: tuple[str, str, str, str]) -> Table:
    """A "ratings only" file: no header, four columns in this order."""
    table = read_table(source.interactions, ",", header=False, drop_bad=source.bad_rows == "drop")
    return map_columns(table, {column: str(place) for place, column in enumerate(order, 1)})


def read_reviews(source: Source, fields: dict[str, str], parse: Parse) -> Table:
    """The interactions in a file of reviews."""
    if source.minimum_rating is None:
        fields = {column: field for column, field in fields.items() if column != "rating"}
    return read_log(source.interactions, fields, (), parse, drop_bad=source.bad_rows == "drop")


def read_meta(source: Source, key: str, brand: str, category: str, parse: Parse) -> Table | None:
    """The items in a file of metadata, if there is one."""
    if source.items is None:
        return None
    return read_item_records(
        source.items,
        lambda record: item_row(record, key, brand, category),
        parse,
        drop_bad=source.bad_rows == "drop",
        item_field=key,
    )


def plain_text(value: object) -> str:
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


def category_path(values: object) -> str:
    """A list of category names (or of such lists: the first) as "A, B, C"."""
    if isinstance(values, list | tuple) and values and isinstance(values[0], list | tuple):
        values = values[0]
    if not isinstance(values, list | tuple):
        return plain_text(values)
    names: list[str] = []
    for value in values:
        if "</span>" in as_text(value):  # 2018: page furniture follows the category path
            break
        names.append(plain_text(value))
    return ", ".join(name for name in names if name)


def item_row(record: Record, key: str, brand: str, category: str) -> Record:
    """The catalogue columns of one metadata record."""
    return {
        "item_id": record.get(key),
        "title": plain_text(record.get("title")),
        "brand": plain_text(record.get(brand)),
        "category": category_path(record.get(category)),
        "description": plain_text(record.get("description")),
    }
