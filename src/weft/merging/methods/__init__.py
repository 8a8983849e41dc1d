"""Merging methods: one file a method or family, each with its settings and its kernel.

The class of each method is a name of this module too (`from weft.merging.methods import Ties`); it
is loaded when it is first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weft.merging.methods.base import MergeMethod as MergeMethod
    from weft.merging.methods.describe import MethodDoc as MethodDoc
    from weft.merging.methods.describe import describe_methods as describe_methods
    from weft.merging.methods.registry import METHODS as METHODS
    from weft.merging.methods.registry import make_method as make_method
    from weft.merging.methods.registry import method_options as method_options

_HOMES = {
    "METHODS": "registry",
    "MergeMethod": "base",
    "MethodDoc": "describe",
    "describe_methods": "describe",
    "make_method": "registry",
    "method_options": "registry",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    method = import_module(f"{__name__}.registry").method_of_class(name)
    if method is None:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return method


def __dir__() -> list[str]:
    from importlib import import_module

    return sorted([*globals(), *_HOMES, *import_module(f"{__name__}.registry").class_names()])
