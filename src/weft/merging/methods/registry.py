"""All methods by name, and how settings become a method. A method is loaded when it is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from weft.errors import SettingError, located
from weft.merging.engine.method import Method
from weft.merging.methods.base import MergeMethod
from weft.settings import validate

# Name -> module.class: the one place in which a method is registered.
_CLASSES: Mapping[str, str] = {
    "linear": "linear.Linear",
    "task_arithmetic": "linear.TaskArithmetic",
    "slerp": "spherical.Slerp",
    "nuslerp": "spherical.Nuslerp",
    "karcher": "spherical.Karcher",
    "multislerp": "spherical.Multislerp",
    "model_stock": "model_stock.ModelStock",
    "ties": "ties.Ties",
    "dare": "dare.Dare",
    "della": "dare.Della",
    "breadcrumbs": "prune.Breadcrumbs",
    "magnitude_prune": "prune.MagnitudePrune",
    "localize_and_stitch": "prune.LocalizeAndStitch",
    "sce": "sce.Sce",
    "pcb": "pcb.Pcb",
    "ram": "ram.Ram",
    "nearswap": "nearswap.Nearswap",
    "arcee_fusion": "arcee_fusion.ArceeFusion",
    "ext_sub": "ext_sub.ExtSub",
    "concat": "concat.Concat",
    "lego": "lego.Lego",
    "knots": "knots.Knots",
}


class _Methods(Mapping[str, type[MergeMethod]]):
    """Name -> class of the method, imported when it is asked for."""

    def __getitem__(self, name: str) -> type[MergeMethod]:
        module, _, kind = _CLASSES[name].partition(".")
        method: type[MergeMethod] = getattr(import_module(f"weft.merging.methods.{module}"), kind)
        return method

    def __contains__(self, name: object) -> bool:
        return name in _CLASSES

    def __iter__(self) -> Iterator[str]:
        return iter(_CLASSES)

    def __len__(self) -> int:
        return len(_CLASSES)


METHODS: Mapping[str, type[MergeMethod]] = _Methods()


def method_of_class(kind: str) -> type[MergeMethod] | None:
    """The method of a class's name (`Ties`); None where there is none."""
    names = (name for name, place in _CLASSES.items() if place.endswith(f".{kind}"))
    name = next(names, None)
    return None if name is None else METHODS[name]


def class_names() -> list[str]:
    return [place.rpartition(".")[2] for place in _CLASSES.values()]


def make_method(method: str | Mapping[str, Any] | Method) -> Method:
    """A method from its name, from a mapping of `name` and options, or as it is.

    Unknown names and options, and values out of bounds, are a `SettingError`.

    >>> make_method("ties")
    Ties(density=0.2, keep='ties', trim='global', rescale='none', elect='unweighted', \
votes='float32', zeros='majority', normalize=True, weigh='within', variant='canonical', scale=1.0)
    >>> make_method({"name": "ties", "density": 0.5}).density
    0.5
    >>> make_method({"name": "linear", "normalise": True})
    Traceback (most recent call last):
    weft.errors.SettingError: method 'linear': normalise: not known; \
did you mean 'normalize'?
    """
    if isinstance(method, str):
        return make_method({"name": method})
    if not isinstance(method, Mapping):
        if not isinstance(method, type) and hasattr(method, "combine"):
            return method
        raise SettingError(f"a method is a name or a mapping with one, not {method!r}")
    options = {str(key): value for key, value in method.items()}
    name = options.pop("name", None)
    if not isinstance(name, str) or name not in METHODS:
        known = ", ".join(METHODS)
        problem = "a method needs a name" if name is None else f"there is no method '{name}'"
        raise SettingError(f"{problem}; methods are {known}")
    with located(f"method '{name}'"):
        chosen: Method = validate(METHODS[name], options)
    return chosen


def method_options(method: Method) -> dict[str, Any]:
    """The name and every option, as plain values that `make_method` takes back.

    >>> method_options(make_method({"name": "linear", "normalize": True}))
    {'name': 'linear', 'normalize': True}
    """
    options: dict[str, Any] = {"name": method.name}
    for field in getattr(type(method), "model_fields", {}):
        value = getattr(method, field)
        options[field] = method_options(value) if isinstance(value, MergeMethod) else value
    return options
