"""Where a domain's log comes from: the settings that a reader needs, from YAML or a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from weft.data.column_names import ITEM_COLUMNS, LOG_COLUMNS, meant_column
from weft.settings import StrictModel

TimeUnit = Literal["s", "ms", "us", "ns", "days", "excel", "iso", "order"]
Unlisted = Literal["error", "add", "drop"]
Faulty = Literal["fail", "drop"]


class Source(StrictModel):
    """One log to read. Which fields a format uses is in its reader's description."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: str | None = Field(
        default=None, description="a reader's name; unset: taken from the file's name"
    )
    interactions: Path = Field(description="the file of interactions, or a folder that has it")
    items: Path | None = Field(
        default=None,
        description="the file of items; its format is taken from its name, or else it is the log's",
    )
    columns: Mapping[str, str] = Field(
        default_factory=dict,
        description="weft's column -> the file's, for the interactions: user_id, item_id,"
        " timestamp, rating; without an items file also the item's text columns",
    )
    item_columns: Mapping[str, str] = Field(
        default_factory=dict,
        description="weft's column -> the file's, for the items: item_id, title, …",
    )
    header: bool = Field(
        default=True,
        description="delimited text: the first line names the columns; else they are 1, 2, …",
    )
    separator: str | None = Field(
        default=None,
        description="delimited text: one character, or 'tab'; unset: the format's",
    )
    encoding: str | None = Field(
        default=None, description="of text files, such as latin-1 or utf-16; unset: UTF-8"
    )
    quoting: Literal["csv", "none"] = Field(
        default="csv",
        description="delimited text: quotes as in CSV, or 'none': a quote is a character like any",
    )
    list_separator: str | None = Field(
        default=None,
        description="what stands between the items of one row, where rows are lists of items",
    )
    time_unit: TimeUnit | None = Field(
        default=None,
        description="unit of the times, 'iso' for written dates, 'order' for no times; unset:"
        " seconds, or ISO dates where the times are written so",
    )
    time_format: str | None = Field(
        default=None, description="of written times, such as '%d/%m/%Y %H:%M'; instead of a unit"
    )
    minimum_rating: float | None = Field(default=None, description="leave out lower ratings")
    unlisted: Unlisted = Field(
        default="error",
        description="an interaction whose item has no catalogue row: error, add an item without"
        " text, or drop the interaction",
    )
    bad_rows: Faulty = Field(
        default="fail", description="rows that can't be read: stop, or drop and count them"
    )
    untitled: bool = Field(
        default=False, description="go on where no item has a title at all (items are bare ids)"
    )

    @field_validator("separator", "list_separator")
    @classmethod
    def _one_character(cls, text: str | None) -> str | None:
        text = {"tab": "\t", "\\t": "\t", "space": " "}.get(text or "", text)
        if text is not None and (len(text.encode()) != 1 or text in '"\r\n'):
            raise ValueError(f"{text!r} is not one character ('tab' is, and 'space')")
        return text

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, name: str | None) -> str | None:
        try:
            if name is not None:
                "".encode(name)
                b"".decode(name)
        except (LookupError, ValueError):
            raise ValueError(f"there is no text encoding '{name}'") from None
        return name

    @model_validator(mode="after")
    def _map_of_log(self) -> Source:
        if self.time_unit is not None and self.time_format is not None:
            raise ValueError("set time_unit or time_format, not both")
        _refuse_slips("columns", self.columns, (*LOG_COLUMNS, "title"))
        strange = [c for c in self.columns if c not in LOG_COLUMNS]
        if self.items is not None and strange:
            raise ValueError(
                f"columns maps '{strange[0]}', but interactions have only {', '.join(LOG_COLUMNS)};"
                " item texts are mapped by item_columns"
            )
        of_log = [c for c in self.item_columns if c in LOG_COLUMNS and c != "item_id"]
        if of_log:
            raise ValueError(
                f"item_columns maps '{of_log[0]}', which is a column of the interactions (columns)"
            )
        _refuse_slips("item_columns", self.item_columns, ITEM_COLUMNS)
        return self


def _refuse_slips(field: str, columns: Mapping[str, str], known: tuple[str, ...]) -> None:
    """Other names are text columns of the item, unless they are slips for one of `known`."""
    for name in columns:
        meant = None if name in known else meant_column(name, known)
        if meant is not None and meant not in columns:
            raise ValueError(
                f"{field} maps '{name}', which weft has no column for; did you mean"
                f" '{meant}={columns[name]}'? (weft's columns: {', '.join(known)}, and texts of the"
                " item under any other name)"
            )
