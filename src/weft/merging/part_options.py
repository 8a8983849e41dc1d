"""Options of a method that single parts have a value of their own for, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from weft.errors import WeftError
from weft.merging.engine.method import Method
from weft.merging.engine.source import measured
from weft.merging.weights import resolve_weights

if TYPE_CHECKING:
    from weft.merging.engine.stream import Merge

PartOptions = Callable[[str], Mapping[str, Sequence[float]]]


def part_options(
    method: Method,
    given: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    labels: Sequence[str],
) -> PartOptions | None:
    """Tensor name -> option -> K values; None where no part has an option of its own.

    A part without one has the method's. Raises `WeftError` for an option that the method does not
    have for single parts, and a value that is no number from 0 to 1.
    """
    if len(given) != len(labels):
        raise WeftError(f"{len(labels)} parts need {len(labels)} sets of options, not {len(given)}")
    options = list(dict.fromkeys(name for one in given for name in one))
    if not options:
        return None
    tables = {}
    for option in options:
        if option not in method.by_part:
            has = ", ".join(method.by_part)
            said = f"only {has}" if has else "none"
            raise WeftError(
                f"method '{method.name}' has no {option} of single parts ({said} can differ)"
            )
        default = _default(method, option)
        specs = [one.get(option, default) for one in given]
        table = resolve_weights(specs, names, labels, option)
        for name in names:
            for value in table(name):
                if not 0 <= value <= 1:
                    raise WeftError(
                        f"{option} must lie between 0 and 1, not {value:g} (tensor '{name}')"
                    )
        tables[option] = table
    return lambda name: {option: table(name) for option, table in tables.items()}


def check_options(merge: Merge) -> None:
    """A `WeftError` for options of single parts that the method can't have."""
    if merge.options is None:
        return
    first: dict[str, list[float]] = {}
    over_all = any(one.scope == "global" for one in merge.method.passes())
    for name, spec in merge.parts[0].specs.items():
        for option, values in merge.options(name).items() if measured(spec) else ():
            if option not in merge.method.by_part:
                raise WeftError(f"method '{merge.method.name}' has no {option} of single parts")
            own = list(map(float, values))
            if over_all and first.setdefault(option, own) != own:
                raise WeftError(
                    f"{option} differs between tensors, which needs trim: tensor: what is ranked "
                    "over the whole model has one"
                )


def _default(method: Method, option: str) -> float:
    """What the method has for all parts: its own option, or that of the method within."""
    if not hasattr(method, option):
        return _default(method.then, option)  # type: ignore[attr-defined]
    return float(getattr(method, option))
