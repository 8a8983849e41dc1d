"""What every pydantic model of settings, manifests and results shares: numbers taken as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema

_STRICT = ("int", "float", "bool")


def _make_strict(schema: Any) -> None:
    """Numbers and truth values anywhere in a schema without conversion from other types."""
    todo = [schema]
    while todo:
        one = todo.pop()
        if isinstance(one, dict):
            if one.get("type") in _STRICT:
                one["strict"] = True
            todo.extend(value for key, value in one.items() if key not in ("metadata", "default"))
        elif isinstance(one, list | tuple):
            todo.extend(one)


class StrictModel(BaseModel):
    """A model whose numbers are finite and whose booleans are no numbers.

    Whole numbers are whole (`16.0`, `"16"` and `true` are none), truth values are `true` and
    `false`; a whole number stands for a float too. The same in lists, mappings and unions.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler, /
    ) -> CoreSchema:
        schema = handler(source)
        _make_strict(schema)
        return schema


def near_field(model: type[BaseModel], place: Sequence[Any]) -> str:
    """The field that an unknown one, at the end of an error's `place`, is likely a slip for ("": none)."""
    models = [model]
    for part in place[:-1]:
        inner = [one for each in models for one in _inside(each, part)]
        models = inner or [each for each in models if str(part) not in each.model_fields]
    names = [name for each in models for name in each.model_fields]
    return next(iter(get_close_matches(str(place[-1]), names, 1, 0.75)), "")


def _inside(model: type[BaseModel], field: Any) -> Iterator[type[BaseModel]]:
    """The models that a field may hold, alone or in lists, mappings and unions."""
    todo = [model.model_fields[field].annotation] if field in model.model_fields else []
    while todo:
        one = todo.pop()
        if isinstance(one, type) and issubclass(one, BaseModel):
            yield one
        todo += list(get_args(getattr(one, "__value__", one)))
