"""All methods by name, how settings become a method, and what there is to tell about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType, NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from weft.data.source import checked
from weft.errors import WeftError
from weft.merging.engine.method import Method
from weft.merging.methods.adapter_only import Concat, Knots, Lego
from weft.merging.methods.arcee_fusion import ArceeFusion
from weft.merging.methods.dare import Dare, Della
from weft.merging.methods.ext_sub import ExtSub
from weft.merging.methods.linear import Linear, TaskArithmetic
from weft.merging.methods.model_stock import ModelStock
from weft.merging.methods.nearswap import Nearswap
from weft.merging.methods.pcb import Pcb
from weft.merging.methods.prune import Breadcrumbs, LocalizeAndStitch, MagnitudePrune
from weft.merging.methods.ram import Ram
from weft.merging.methods.sce import Sce
from weft.merging.methods.settings import Settings
from weft.merging.methods.spherical import Karcher, Multislerp, Nuslerp, Slerp
from weft.merging.methods.ties import Ties

_ALL: tuple[type[Settings], ...] = (
    Linear,
    TaskArithmetic,
    Slerp,
    Nuslerp,
    Karcher,
    Multislerp,
    ModelStock,
    Ties,
    Dare,
    Della,
    Breadcrumbs,
    MagnitudePrune,
    LocalizeAndStitch,
    Sce,
    Pcb,
    Ram,
    Nearswap,
    ArceeFusion,
    ExtSub,
    Concat,
    Lego,
    Knots,
)

METHODS: Mapping[str, type[Settings]] = MappingProxyType({one.name: one for one in _ALL})


def make_method(given: str | Mapping[str, Any] | Method) -> Method:
    """A method from its name, from a mapping of `name` and options, or as it is.

    Unknown names and options, and values out of bounds, are a `WeftError`.
    """
    if isinstance(given, str):
        return make_method({"name": given})
    if not isinstance(given, Mapping):
        if not isinstance(given, type) and hasattr(given, "combine"):
            return given
        raise WeftError(f"a method is a name or a mapping with one, not {given!r}")
    options = {str(key): value for key, value in given.items()}
    name = options.pop("name", None)
    if not isinstance(name, str) or name not in METHODS:
        known = ", ".join(METHODS)
        problem = "a method needs a name" if name is None else f"there is no method '{name}'"
        raise WeftError(f"{problem}; methods are {known}")
    try:
        return checked(METHODS[name], options)
    except WeftError as error:
        raise WeftError(f"method '{name}': {error}") from None


def method_options(method: Method) -> dict[str, Any]:
    """The name and every option, as plain values that `make_method` takes back."""
    found: dict[str, Any] = {"name": method.name}
    for field in getattr(type(method), "model_fields", {}):
        value = getattr(method, field)
        found[field] = method_options(value) if isinstance(value, Settings) else value
    return found


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
    """Every method, in the order of the registry."""
    return [_describe(one) for one in METHODS.values()]


def _describe(method: type[Settings]) -> MethodDoc:
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
    return "method" if issubclass(kind, Settings) else kind.__name__


def _default_text(field: FieldInfo) -> str:
    value = field.default
    if isinstance(value, Settings):
        changed = {k: v for k, v in method_options(value).items() if k in value.model_fields_set}
        return " ".join([value.name, *(f"{k}={v}" for k, v in changed.items())])
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else str(value)
