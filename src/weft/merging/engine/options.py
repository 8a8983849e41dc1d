"""Options of single parts, as the engine hands them to a method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weft.errors import SettingError
from weft.merging.engine.source import measured

if TYPE_CHECKING:
    from weft.merging.engine.stream import Merge


def check_part_options(merge: Merge) -> None:
    """A `SettingError` for options of single parts that the method can't have."""
    if merge.options is None:
        return
    first: dict[str, list[float]] = {}
    over_all = any(one.scope == "global" for one in merge.method.passes())
    for name, spec in merge.parts[0].specs.items():
        for option, values in merge.options(name).items() if measured(spec) else ():
            if option not in merge.method.by_part:
                raise SettingError(f"method '{merge.method.name}' has no {option} of single parts")
            numbers = list(map(float, values))
            if over_all and first.setdefault(option, numbers) != numbers:
                raise SettingError(
                    f"{option} differs between tensors, which needs trim: tensor: what is ranked "
                    "over the whole model has one"
                )
