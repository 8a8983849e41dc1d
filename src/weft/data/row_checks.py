"""Rows of a log that are no interactions although they have a user and an item."""

from __future__ import annotations

import numpy as np
import polars as pl

from weft.data.faults import Faults, Mask
from weft.data.missing import is_word, means_none
from weft.data.raw import Table

USERS = ("user_id", "user", "uid", "customer_id", "session_id", "visitor_id", "reviewer_id")
ITEMS = ("item_id", "item", "iid", "product_id", "movie_id", "article_id", "asin", "sku")


def add_row_faults(faults: Faults, users: pl.Series, item: pl.Series, item_ids: pl.Series) -> None:
    """Add rows whose user or item is a word for a missing value, and header lines among the rows.

    `users` [n] ids; `item` [n] rows of the catalogue `item_ids`, null for an item that is not in it.
    """
    word = is_word(users)
    faults.add(word.to_numpy(), "user_id", lambda row: means_none(users[row]))
    faults.add(
        _of_items(item, is_word(item_ids)),
        "item_id",
        lambda row: means_none(item_ids[item[row]]),
    )
    user_names, item_names = _names(faults.table, "user_id"), _names(faults.table, "item_id")
    header = users.cast(pl.String).is_in(user_names).fill_null(False).to_numpy()
    if header.any():
        of_items = _of_items(item, item_ids.is_in(item_names)) | item.is_null().to_numpy()
        faults.add(
            header & of_items,
            "user_id",
            lambda row: f"= {users[row]!r} is the column's name: this is a header, not a row",
        )


def _of_items(item: pl.Series, wanted: pl.Series) -> Mask:
    """[n] of an item that is wanted; `wanted` is one bool for each item."""
    none: Mask = np.zeros(len(item), dtype=bool)
    if not wanted.any():
        return none
    out: Mask = item.is_in(wanted.arg_true().to_list()).fill_null(False).to_numpy()
    return out


def _names(table: Table, column: str) -> list[str]:
    """What a header may call the column."""
    names = {table.called(column)} - {str(number) for number in range(100)}
    for name in USERS if column == "user_id" else ITEMS:
        words = name.split("_")
        camel = words[0] + "".join(word.capitalize() for word in words[1:])
        names |= {name, name.upper(), name.capitalize(), name.title(), camel, camel.capitalize()}
        names |= {"".join(words), "".join(word.capitalize() for word in words)}
    return sorted(names)
