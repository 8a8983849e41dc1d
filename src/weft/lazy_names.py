"""Names of a package that are loaded when they are first used.

Importing one file of a package runs the package's `__init__.py` first. One that imports the other
files would draw them all in, with what they need; one that has lazy names draws in none.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy_names(package: str, names: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """A `__getattr__` for the package's `__init__.py`; `names` maps each of its modules to the
    names that the package takes from it.

    An unknown name is an `AttributeError`, as in every module. Type checkers can't follow it: show
    them the same names as plain imports under `if TYPE_CHECKING`.
    """
    homes = {name: f"{package}.{module}" for module, some in names.items() for name in some}

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        loaded = getattr(import_module(homes[name]), name)
        setattr(sys.modules[package], name, loaded)
        return loaded

    return load
