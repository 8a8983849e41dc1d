"""The kinds of splits there are, and how a recipe, a command or a manifest names one."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny

from weft.data.domain import Domain
from weft.data.splits.base import Split, SplitSettings
from weft.data.splits.by_time import TimeSplit
from weft.data.splits.by_user import UserSplit
from weft.data.splits.last_item import LeaveOneOut
from weft.errors import SettingError
from weft.settings import as_written, field_errors, validate
from weft.settings.yaml_documents import parse_yaml

SPLITS: dict[str, type[SplitSettings]] = {
    kind.name(): kind for kind in (LeaveOneOut, UserSplit, TimeSplit)
}

_KIND_OF_BLOCKS = "by_user"  # of a block that names none


def parse_split(value: object) -> SplitSettings:
    """A split as a recipe, a command or a manifest writes it: a kind's name, its short form, a
    block of settings with its `kind` (also as one line of YAML), or settings already.

    Anything else is a `SettingError`.

    >>> parse_split("by_user:8,1,1").ratios
    (8.0, 1.0, 1.0)
    >>> print(parse_split({"kind": "global_time", "quantiles": [0.8, 0.9]}))
    global_time: validation from 0.8 of the interactions, test from 0.9, every target
    """
    if isinstance(value, SplitSettings):
        return value
    if isinstance(value, str) and value.lstrip().startswith("{"):  # a block in a terminal
        value = parse_yaml(value, "the block")
    if isinstance(value, str):
        name, colon, short = value.partition(":")
        kind = _kind(name.strip())
        settings = kind.from_short(short.strip()) if colon else {}
        return validate(kind, {"kind": kind.name(), **settings})
    if not isinstance(value, Mapping):
        raise SettingError(
            f"{as_written(value)} is no split; write {_short_forms()}, or a block with its kind"
        )
    _check_not_nested(value)
    name = value.get("kind", _KIND_OF_BLOCKS)
    kind = _kind(name)
    return validate(kind, {**value, "kind": kind.name()})


def _kind(name: object) -> type[SplitSettings]:
    every = _every_name()
    if isinstance(name, str) and name in every:
        return every[name]
    near = get_close_matches(name, every, 1, 0.75) if isinstance(name, str) else []
    meant = f"; did you mean '{near[0]}'?" if near else ""
    raise SettingError(f"kind {as_written(name)} is not known; {_known()} are{meant}")


def _check_not_nested(block: Mapping[Any, Any]) -> None:
    """Settings stand beside the kind, not under it."""
    for name in block:
        if name in _every_name():
            raise SettingError(
                f"'{name}' is a kind: write it as {{kind: {name}}}, with its settings beside it"
            )


def _every_name() -> dict[str, type[SplitSettings]]:
    return {name: kind for kind in SPLITS.values() for name in (kind.name(), *kind.OTHER_NAMES)}


def _known() -> str:
    names = list(SPLITS)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _short_forms() -> str:
    forms = [kind.SHORT for kind in SPLITS.values()]
    return f"{', '.join(forms[:-1])} or {forms[-1]}"


def _field(value: object) -> SplitSettings:
    with field_errors():
        return parse_split(value)


AnySplit = Annotated[SerializeAsAny[SplitSettings], BeforeValidator(_field)]
"""For a field of a pydantic model: any kind of split, with messages in the words of that kind."""


def make_split(domain: Domain, split: SplitSettings | str | Mapping[str, Any]) -> Split:
    """The split of a domain that a recipe's `evaluate: split` names; see `parse_split`.

    >>> from weft.data.mall import mall
    >>> home = mall(users=40, items=50)["home"]
    >>> split = make_split(home, "by_user:3,1,1")
    >>> len(split.train), len(split.validation), len(split.test)
    (25, 7, 8)
    >>> print(make_split(home, "by_month"))
    Traceback (most recent call last):
    weft.errors.SettingError: split: kind 'by_month' is not known; leave_one_out, by_user and global_time are
    """
    try:
        settings = parse_split(split)
    except SettingError as error:
        raise SettingError(f"split: {error}") from None
    return settings.make(domain)
