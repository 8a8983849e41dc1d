"""Names that people give: of domains, of the parts of a merge. One rule at every door."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from weft.errors import SettingError
from weft.settings import field_errors

MOST_CHARACTERS = 200


def check_name(name: str, source: str) -> str:
    """The name, or a `SettingError` that says where it comes from (`source`) and what is wrong.

    A name has a visible character, at most `MOST_CHARACTERS`, no space at its ends, and no line
    breaks, control or other invisible characters, which would break messages, tables and folders.
    """
    wrong = _fault(name)
    if wrong is not None:
        shown = ascii(name) if len(name) <= 60 else ascii(name[:57]) + "…"
        raise SettingError(f"{source} {shown} {wrong}; use letters, digits, '_', '.' and '-'")
    return name


def _fault(name: str) -> str | None:
    if not name.strip():
        return "is empty"
    if not name.isprintable():
        return "has line breaks, control or invisible characters"
    if name != name.strip():
        return "begins or ends with a space"
    if len(name) > MOST_CHARACTERS:
        return f"has more than {MOST_CHARACTERS} characters"
    return None


def _valid(name: str) -> str:
    with field_errors():
        return check_name(name, "the name")


Name = Annotated[str, AfterValidator(_valid)]
"""For fields of pydantic models."""


def _folder(name: str) -> str:
    if not re.fullmatch(r"\w[\w.-]*", name):
        shown = ascii(name) if len(name) <= 60 else ascii(name[:57]) + "…"
        raise ValueError(
            f"{shown} is no name of a folder: use letters, digits, '_', '.' and '-', "
            "a letter, a digit or '_' first"
        )
    return _valid(name)


FolderName = Annotated[str, AfterValidator(_folder)]
"""For fields whose value names a folder of a run."""
