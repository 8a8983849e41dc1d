"""What a YAML or JSON file is for, where it is given to the wrong command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from weft.errors import SettingError

Values = Mapping[str, Any]

STUDY, BACKBONE, MERGE = "weft run", "weft backbone pretrain", "weft merge"


def _manifest(values: Values) -> bool:
    return (
        "weights_hash" in values
        or "versions" in values
        or "fingerprint" in _block(values, "backbone")
    )


def _merged(values: Values) -> bool:
    """A merge's manifest, which a merge takes to replay it."""
    return _manifest(values) and "method" in _block(values, "merge")


def _block(values: Values, name: str) -> Values:
    block = values.get(name)
    return block if isinstance(block, Mapping) else {}


_PURPOSES: tuple[tuple[Callable[[Values], bool], str, str], ...] = (
    (lambda values: "merge_method" in values, "a mergekit file", MERGE),
    (lambda values: "parts" in values, "a merge recipe", MERGE),
    (_merged, "the manifest of a merge", MERGE),
    (_manifest, "a manifest and no recipe", ""),
    (lambda values: "domains" in values, "the recipe of a study", STUDY),
    (lambda values: "catalogues" in values, "the recipe of a backbone", BACKBONE),
)
"""What tells a file, what it is, and the command that takes it (none: no command does); the first
that fits counts."""


def check_purpose(values: Values, command: str) -> None:
    """A `SettingError` where the values are plainly for another command.

    >>> check_purpose({"domains": ["a", "b"]}, "weft merge")
    Traceback (most recent call last):
    weft.errors.SettingError: this is the recipe of a study: `weft run` takes it
    """
    for tells, what, taker in _PURPOSES:
        if tells(values):
            if taker != command:
                raise SettingError(f"this is {what}" + (f": `{taker}` takes it" if taker else ""))
            return
