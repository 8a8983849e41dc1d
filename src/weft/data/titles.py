"""Does a catalogue have titles, and which column holds them?"""

from __future__ import annotations

import re
from collections.abc import Iterable

import polars as pl

from weft.data.domain import Catalogue
from weft.data.raw import RawLog
from weft.data.source import Source
from weft.errors import DataError

WORDS = {"title", "titles", "name", "titel", "titre", "titulo", "nombre", "nom", "bezeichnung"}
OTHERS = {
    "category", "categories", "cat", "genre", "genres", "class", "type", "brand", "user", "customer",
    "client", "author", "artist", "actor", "director", "seller", "vendor", "shop", "store", "supplier",
    "merchant", "manufacturer", "department", "dept", "group", "section", "city", "country", "region",
    "state", "file", "image", "first", "last", "nick", "reviewer", "review", "event", "device",
    "campaign", "color", "colour", "tag", "session", "page", "school", "company", "publisher", "family",
}  # fmt: skip
ENOUGH = 20  # titles, to judge whether they differ
SAMPLE = 100_000  # rows of a log that are looked at for titles that change
FEW = 0.5  # a smaller share of titled items is warned about


def likely_titles(columns: Iterable[str]) -> list[str]:
    """The columns that may be the items' titles by their names: product_name, ItemName, title."""
    likely = []
    for column in columns:
        spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", column)
        words = [word for word in re.split(r"[^a-z]+", spaced.casefold()) if word]
        glued = re.fullmatch(
            r"(item|product|movie|book|game|song|track|film|article)(title|name)", "".join(words)
        )
        if (words and words[-1] in WORDS and not set(words) & OTHERS) or glued:
            likely.append(column)
    return likely


def check_titles(items: pl.DataFrame, raw: RawLog, source: Source, *, mapped: bool) -> list[str]:
    """Sentences on missing titles. Raises `DataError` if no item has one, unless `untitled`.

    `mapped`: the format has a column map, so that a column can be named.
    """
    titled = int((items["title"].str.strip_chars() != "").sum())
    if titled == 0:
        if source.untitled:
            return [
                "no item has a title: only recommenders that know items by their ids can use them"
            ]
        raise _untitled(raw, mapped=mapped)
    notes = []
    if titled < FEW * items.height:
        table = raw.items or raw.interactions
        others = (
            [c for c in likely_titles(table.header) if c != table.called("title")] if mapped else []
        )
        hint = f" ('{others[0]}' may hold titles too)" if others else ""
        notes.append(
            f"only {titled:,} of {items.height:,} items have a title{hint}; --titled leaves the others"
            " out"
        )
    different = items["title"].str.strip_chars().n_unique() - (titled < items.height)
    if titled >= ENOUGH and different < FEW * titled:
        notes.append(
            f"the {titled:,} items with a title have only {different:,} different ones (those of one"
            " title count as one item in evaluations); does the column hold titles?"
        )
    if raw.items is None:
        notes += _differing(raw)
    return notes


def require_texts(name: str, items: Catalogue) -> None:
    """Raise `DataError` if no item of a domain has any text, which a language model would read."""
    frame = items.frame
    texts = [column for column in frame.columns if column != "item_id"]
    if not any((frame[column].str.strip_chars() != "").any() for column in texts):
        raise DataError(
            f"domain '{name}': none of its {len(items):,} items has a title or any"
            " other text for a language model to read; ingest it again with the column that holds"
            " the titles (--column title=NAME or --item-column title=NAME)"
        )


def _untitled(raw: RawLog, *, mapped: bool) -> DataError:
    table = raw.items or raw.interactions
    if not mapped:
        remedy = "" if raw.items is not None else "; name the file of items with --items"
        return DataError(f"{table.file}: no item has a title{remedy}; or go on without: --untitled")
    option = "--item-column" if raw.items is not None else "--column"
    column = table.called("title")
    elsewhere = [ours for ours, theirs in table.names.items() if theirs == column != ours]
    if column in table.header and (not elsewhere or "title" in table.names):
        what = f"column '{column}' is empty in every row"
    else:
        what = "there is no column of titles"
    likely = [name for name in likely_titles(table.header or table.columns()) if name != column]
    if len(likely) == 1:
        remedy = f"is it '{likely[0]}'? {option} title={likely[0]}"
    elif likely:
        names = ", ".join(f"'{name}'" for name in likely)
        remedy = f"{names} may be: choose with {option} title={likely[0]}"
    else:
        there = ", ".join(f"'{name}'" for name in table.header or table.columns())
        remedy = f"name it with {option} title=NAME (its columns: {there})"
        if raw.items is None:
            remedy += ", or the file of items with --items"
    return DataError(
        f"{table.file}: no item has a title, for {what}; {remedy}; or go on without: --untitled"
    )


def _differing(raw: RawLog) -> list[str]:
    """In a log's own column of titles: items whose (first) rows have different ones."""
    log = raw.interactions
    if log.columns().get("title") != pl.String:
        return []
    frame = log.frame.head(SAMPLE).select(
        pl.col("item_id").cast(pl.String), pl.col("title").cast(pl.String)
    )
    filled = frame.filter(pl.col("title").fill_null("").str.strip_chars() != "")
    counts = filled.group_by("item_id").agg(pl.len().alias("rows"), pl.col("title").n_unique())
    several = counts.filter(pl.col("rows") > 1).collect()
    differ = several.filter(pl.col("title") > 1)
    if differ.height <= 0.1 * several.height:
        return []
    note = (
        f"{log.file}: {differ.height:,} of {several.height:,} items with several rows have different"
        f" titles in them (the first row's counts); is column '{log.called('title')}' the item's, not"
        " a review's?"
    )
    return [note]
