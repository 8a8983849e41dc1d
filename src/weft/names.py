"""Names that people give: of domains, of the parts of a merge. One rule at every door."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from weft.errors import WeftError

MOST_CHARACTERS = 200


def check_name(name: str, source: str) -> str:
    """The name, or a `WeftError` that says where it comes from (`source`) and what is wrong.

    A name has a visible character, at most `MOST_CHARACTERS`, no space at its ends, and no line
    breaks, control or other invisible characters, which would break messages, tables and folders.
    """
    wrong = _fault(name)
    if wrong is not None:
        shown = ascii(name) if len(name) <= 60 else ascii(name[:57]) + "…"
        raise WeftError(f"{source} {shown} {wrong}; use letters, digits, '_', '.' and '-'")
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
    try:
        return check_name(name, "the name")
    except WeftError as error:
        raise ValueError(str(error)) from None


Name = Annotated[str, AfterValidator(_valid)]
"""For fields of pydantic models."""
