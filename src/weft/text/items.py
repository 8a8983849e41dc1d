"""Which text of a catalogue describes an item."""

from __future__ import annotations

from typing import Annotated

import polars as pl
from pydantic import ConfigDict, Field, model_validator

from weft.data.domain import Catalogue
from weft.errors import SettingError
from weft.settings import StrictModel
from weft.text.cleaning import clean_text


class TextSettings(StrictModel):
    """The text of an item: which fields, in which order, and how much of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fields: Annotated[list[str], Field(min_length=1)] = ["title"]
    """Columns of the catalogue, joined in this order; empty ones are skipped. A catalogue may lack
    a column whose name ends in `?`: `[title, brand?]`."""
    keys: bool = False
    """Write each field's name before its value: `title red mug brand Acme`."""
    words: Annotated[int, Field(ge=1)] | None = None
    """Keep at most this many words of the joined text."""
    field_tokens: Annotated[int, Field(ge=1)] | None = None
    """Keep at most this many tokens of each field's value."""
    tokens: Annotated[int, Field(ge=1)] | None = 16
    """Keep at most this many tokens of an item."""

    @model_validator(mode="after")
    def _one_cut(self) -> TextSettings:
        if self.words is not None and self.field_tokens is not None:
            raise ValueError(
                "give words (of the joined text) or field_tokens (of each value), not both"
            )
        return self

    @property
    def by_field(self) -> bool:
        """Whether fields are tokenised one by one, not as one text."""
        return self.keys or self.field_tokens is not None


def item_texts(catalogue: Catalogue, settings: TextSettings) -> list[str]:
    """One clean line of text for each item, in catalogue order.

    Raises a `SettingError` that names the field and the columns there are if the catalogue
    lacks a field.

    >>> import polars as pl
    >>> from weft.data.domain import Catalogue
    >>> frame = pl.DataFrame(
    ...     {"item_id": ["a", "b"], "title": ["Red mug", "Oak  table"], "brand": ["Acme", None]}
    ... )
    >>> item_texts(Catalogue(frame), TextSettings(fields=["title", "brand?"]))
    ['Red mug Acme', 'Oak table']
    """
    fields = field_texts(catalogue, settings)
    if settings.keys:
        fields = {key: [f"{key} {one}" if one else "" for one in v] for key, v in fields.items()}
    if not fields:
        return [""] * len(catalogue)
    return [join(parts, settings.words) for parts in zip(*fields.values(), strict=True)]


def field_texts(catalogue: Catalogue, settings: TextSettings) -> dict[str, list[str]]:
    """Field -> its clean value for each item, "" where there is none; see `item_texts`."""
    frame = catalogue.frame
    texts: dict[str, list[str]] = {}
    for entry in settings.fields:
        field = entry.removesuffix("?")
        if field in frame.columns:
            values = frame[field].cast(pl.String).fill_null("").to_list()
            texts[field] = [clean_text(value) for value in values]
        elif field == entry:
            there = ", ".join(column for column in frame.columns if column != "item_id")
            raise SettingError(
                f"the catalogue has no field '{field}'; it has: {there} "
                f"(write '{field}?' if it may be absent)"
            )
    return texts


def join(parts: tuple[str, ...], words: int | None) -> str:
    """The clean, non-empty parts joined by a space and cut to the first `words` words."""
    text = clean_text(" ".join(parts))
    return text if words is None else " ".join(text.split(" ")[:words])
