"""What there is to tell of every method."""

from __future__ import annotations

from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from weft.merging.methods.base import MergeMethod
from weft.merging.methods.registry import METHODS, method_options


@dataclass(frozen=True)
class MethodDoc:
    """What a person should know of a method. An option is (name, type, default, meaning)."""

    name: str
    summary: str
    source: str
    needs_base: bool
    parts: str  # "1+", "2+", "1" or "2"
    for_adapters: bool
    for_checkpoints: bool
    options: list[tuple[str, str, str, str]]


def describe_methods() -> list[MethodDoc]:
    """Every method, in the order of the registry.

    >>> [doc.name for doc in describe_methods()][:2]
    ['linear', 'task_arithmetic']
    """
    return [_document(one) for one in METHODS.values()]


def _document(method: type[MergeMethod]) -> MethodDoc:
    return MethodDoc(
        name=method.name,
        summary=(method.__doc__ or "").strip().splitlines()[0],
        source=method.source,
        needs_base=method.needs_base,
        parts=method.takes,
        for_adapters=not method.checkpoints_only,
        for_checkpoints=not method.adapters_only,
        options=[
            (name, _type_text(field.annotation), _default_text(field), field.description or "")
            for name, field in sorted(method.model_fields.items(), key=lambda one: one[0] == "then")
        ],
    )


_WORDS = {bool: "true | false", int: "whole number", float: "number", NoneType: "none"}


def _type_text(kind: Any) -> str:
    if kind in _WORDS:
        return _WORDS[kind]
    if get_origin(kind) is Literal:
        return " | ".join(map(str, get_args(kind)))
    if get_args(kind):
        return " | ".join(map(_type_text, get_args(kind)))
    return "method" if issubclass(kind, MergeMethod) else kind.__name__


def _default_text(field: FieldInfo) -> str:
    value = field.default
    if isinstance(value, MergeMethod):
        set_ones = {k: v for k, v in method_options(value).items() if k in value.model_fields_set}
        return " ".join([value.name, *(f"{k}={v}" for k, v in set_ones.items())])
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else str(value)
