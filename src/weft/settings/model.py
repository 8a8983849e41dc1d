"""What every pydantic model of settings, manifests and results shares: numbers taken as they are,
and errors in one sentence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema

from weft.errors import SettingError, WeftError

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


Model = TypeVar("Model", bound=BaseModel)


def validate(
    model: type[Model], values: Mapping[str, Any], error: type[WeftError] = SettingError
) -> Model:
    """The values as a `model`; what is wrong with them is one `error`, which names the fields.

    >>> class Blur(StrictModel):
    ...     radius: int
    >>> validate(Blur, {"radius": 3})
    Blur(radius=3)
    >>> validate(Blur, {"radius": "wide"})
    Traceback (most recent call last):
    weft.errors.SettingError: radius: must be a whole number, not 'wide'
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as raised:
        raise error(one_sentence(raised, lambda place: near_field(model, place))) from None


def as_written(value: object) -> str:
    """A value for a message, as somebody writes it in YAML; of lists and blocks, only that they are.

    >>> as_written(None), as_written(True), as_written("a"), as_written(["a"])
    ('null', 'true', "'a'", 'a list')
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a block of settings"
    if isinstance(value, list | tuple):
        return "a list"
    shown = ascii(value)
    return shown if len(shown) <= 60 else f"{shown[:56]}…{shown[-1]}"


@contextmanager
def field_errors(place: str = "") -> Iterator[None]:
    """For the body of a pydantic validator: a `WeftError` becomes the `ValueError` that pydantic
    names the field of; `place` stands before it."""
    try:
        yield
    except WeftError as error:
        raise ValueError(f"{place}: {error}" if place else str(error)) from None


# --- what pydantic refuses, in the words of those who wrote the settings

Place = tuple[str | int, ...]
"""Names of fields and numbers of entries, from the outside in."""

_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a block of settings",
    "mapping_type": "a block of settings",
    "model_type": "a block of settings",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
}
"""Kind of error -> what must stand there."""

_PLAIN_TYPES = frozenset({"str", "int", "float", "bool", "none", "any", "path"})


def one_sentence(error: ValidationError, near: Callable[[Sequence[Any]], str]) -> str:
    """Everything that is wrong, field by field; `near` is the field that an unknown one may be a
    slip for.

    Where a field takes one of several types, what each of them expects is one clause.
    """
    errors = [(_place(one["loc"]), one) for one in error.errors(include_url=False)]
    places = [place for place, _ in errors]
    clauses: dict[Place, list[Mapping[str, Any]]] = defaultdict(list)
    for place, one in errors:
        deeper = any(len(other) > len(place) and other[: len(place)] == place for other in places)
        counted_less = one["type"] == "too_short"  # entries that are wrong were left out
        another_type = len(place) < len(one["loc"])  # than that of which an entry is wrong
        if not (deeper and (counted_less or another_type)):
            clauses[place].append(one)
    wrong = []
    for place, several in clauses.items():
        field, words = ".".join(map(str, place)), _words(place, several, near)
        wrong.append(f"{field}: {words}" if field else words)
    return "; ".join(wrong)


def _words(
    place: Place, errors: Sequence[Mapping[str, Any]], near: Callable[[Sequence[Any]], str]
) -> str:
    """What is wrong with one field."""
    expected, others = [], []
    for one in errors:
        if one["type"] in _EXPECTED:
            expected.append(_EXPECTED[one["type"]].format(**one.get("ctx", {})))
        else:
            others.append(_other(place, one, near))
    if expected:
        others.insert(0, f"must be {' or '.join(dict.fromkeys(expected))}{_shown(errors)}")
    return "; ".join(dict.fromkeys(others))


def _other(place: Place, one: Mapping[str, Any], near: Callable[[Sequence[Any]], str]) -> str:
    match one["type"]:
        case "extra_forbidden":
            field = near(place)
            return f"not known; did you mean '{field}'?" if field else "not known"
        case "missing":
            return "missing"
        case "too_short":
            return _count("at least", one["ctx"]["min_length"])
        case "too_long":
            return _count("at most", one["ctx"]["max_length"])
        case "string_too_short":
            return "must not be empty"
        case _:
            return str(one["msg"]).removeprefix("Value error, ")


def _count(bound: str, number: int) -> str:
    return f"needs {bound} {number} {'entry' if number == 1 else 'entries'}"


def _shown(errors: Sequence[Mapping[str, Any]]) -> str:
    """The value that stands there, if it is short."""
    value = errors[0]["input"]
    if value is None or (isinstance(value, str | int | float) and len(ascii(value)) <= 60):
        return f", not {as_written(value)}"
    return ""


def _place(location: Sequence[str | int]) -> Place:
    """Where an error is, without the types that pydantic tried there."""
    return tuple(part for part in location if not _is_type(part))


def _is_type(part: str | int) -> bool:
    return isinstance(part, str) and ("[" in part or part in _PLAIN_TYPES or part in _models())


def _models() -> set[str]:
    """The names of all models: a field of several models names each that was tried."""
    names, todo = set(), [BaseModel]
    while todo:
        one = todo.pop()
        names.add(one.__name__)
        todo += one.__subclasses__()
    return names
