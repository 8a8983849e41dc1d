"""Where a domain's log comes from: the settings that a reader needs, from YAML or a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from weft.errors import WeftError

TimeUnit = Literal["s", "ms", "us", "ns", "iso", "order"]
Unlisted = Literal["error", "add", "drop"]
LOG_COLUMNS = ("user_id", "item_id", "timestamp", "rating")


class Source(BaseModel):
    """One log to read. Which fields a format uses is in its reader's description."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: str | None = Field(
        default=None, description="a reader's name; unset: told by the file's name"
    )
    interactions: Path = Field(description="the file of interactions, or a folder that has it")
    items: Path | None = Field(default=None, description="the file of items")
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
    time_unit: TimeUnit | None = Field(
        default=None, description="unit of the times, 'iso' for written dates, 'order' for no times"
    )
    minimum_rating: float | None = Field(default=None, description="leave out lower ratings")
    unlisted: Unlisted = Field(
        default="error",
        description="an interaction whose item has no catalogue row: error, add an item without"
        " text, or drop the interaction",
    )

    @model_validator(mode="after")
    def _map_of_log(self) -> Source:
        strange = [c for c in self.columns if c not in LOG_COLUMNS]
        if self.items is not None and strange:
            raise ValueError(
                f"columns maps '{strange[0]}', but interactions have only {', '.join(LOG_COLUMNS)};"
                " item texts are mapped by item_columns"
            )
        return self


Model = TypeVar("Model", bound=BaseModel)


def checked(model: type[Model], values: Mapping[str, Any]) -> Model:
    """The settings as a `model`; what is wrong with them is one `WeftError`."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        wrong = [
            f"{'.'.join(map(str, one['loc'])) or model.__name__.lower()}: "
            + one["msg"].removeprefix("Value error, ")
            for one in error.errors(include_url=False)
        ]
        raise WeftError("; ".join(wrong)) from None
