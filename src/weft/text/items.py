"""Which text stands for an item."""

from __future__ import annotations

from typing import Annotated

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from weft.data.domain import Catalogue
from weft.errors import WeftError
from weft.text.clean import clean


class TextSettings(BaseModel):
    """The text of an item: which fields, in which order, and how much of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fields: Annotated[list[str], Field(min_length=1)] = ["title"]
    """Columns of the catalogue, joined in this order; empty ones are skipped."""
    words: Annotated[int, Field(ge=1)] | None = None
    """Keep at most this many words of the joined text."""
    tokens: Annotated[int, Field(ge=1)] | None = 16
    """Keep at most this many tokens of an item."""


def item_texts(catalogue: Catalogue, settings: TextSettings) -> list[str]:
    """One clean line of text for each item, in catalogue order.

    Raises a `WeftError` that names the field and the columns there are if the catalogue
    lacks a field.
    """
    frame = catalogue.frame
    for field in settings.fields:
        if field not in frame.columns:
            there = ", ".join(column for column in frame.columns if column != "item_id")
            raise WeftError(f"the catalogue has no field '{field}'; it has: {there}")
    columns = [frame[field].cast(pl.String).fill_null("").to_list() for field in settings.fields]
    return [join(parts, settings.words) for parts in zip(*columns, strict=True)]


def join(parts: tuple[str, ...], words: int | None) -> str:
    """The clean, non-empty parts joined by a space and cut to the first `words` words."""
    text = clean(" ".join(parts))
    return text if words is None else " ".join(text.split(" ")[:words])
