"""Options of a method that single parts have a value of their own for, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from weft.errors import SettingError
from weft.merging.engine.method import Method
from weft.merging.weights import resolve_weights

PartOptions = Callable[[str], Mapping[str, Sequence[float]]]


def part_options(
    method: Method,
    sets: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    labels: Sequence[str],
) -> PartOptions | None:
    """Tensor name -> option -> K values; None where no part has an option of its own.

    A part without one has the method's. Raises `SettingError` for an option that the method does not
    have for single parts, and a value that is no number from 0 to 1.
    """
    if len(sets) != len(labels):
        raise SettingError(
            f"{len(labels)} parts need {len(labels)} sets of options, not {len(sets)}"
        )
    options = list(dict.fromkeys(name for one in sets for name in one))
    if not options:
        return None
    tables = {}
    for option in options:
        if option not in method.by_part:
            has = ", ".join(method.by_part)
            which = f"only {has}" if has else "none"
            raise SettingError(
                f"method '{method.name}' has no {option} of single parts ({which} can differ)"
            )
        default = _default(method, option)
        specs = [one.get(option, default) for one in sets]
        table = resolve_weights(specs, names, labels, option)
        for name in names:
            for value in table(name):
                if not 0 <= value <= 1:
                    raise SettingError(
                        f"{option} must lie between 0 and 1, not {value:g} (tensor '{name}')"
                    )
        tables[option] = table
    return lambda name: {option: table(name) for option, table in tables.items()}


def _default(method: Method, option: str) -> float:
    """What the method has for all parts: its own option, or that of the method within."""
    if not hasattr(method, option):
        return _default(method.then, option)  # type: ignore[attr-defined]
    return float(getattr(method, option))
