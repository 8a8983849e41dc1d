"""Which of a target's recommenders to serve, as the run that made them decided."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import ConfigDict, Field

from weft.artifacts.documents import read_object
from weft.data.source import checked
from weft.errors import WeftError
from weft.settings import StrictModel

FILE, RECOMMENDERS = "recommendation.json", "recommenders"
NONE = "there are none"
_MANIFESTS = ("weft.json", "integrator.json", "adapter_config.json")


class _Recommendation(StrictModel):
    """The entries of recommendation.json that asking needs."""

    model_config = ConfigDict(extra="ignore")

    target: str
    row: Annotated[str, Field(min_length=1)] | None
    folder: str | None
    reason: str = ""


@dataclass(frozen=True)
class Chosen:
    """A recommender's folder, and the row and reason for which it was taken, if it was."""

    folder: Path
    row: str | None = None
    reason: str = ""


def is_recommender(folder: Path) -> bool:
    """Whether a folder is a recommender's own, not one that holds several."""
    return any((folder / name).is_file() for name in _MANIFESTS)


def choose(path: Path) -> Chosen:
    """`path` itself where it is a recommender's folder; of a target's folder with a row each, the
    one that its recommendation.json names.

    Raises `WeftError`, which lists the rows there, where that file is missing or names none.
    """
    if is_recommender(path):
        return Chosen(path)
    if not path.is_dir():
        what = "is a file, not a recommender's folder" if path.exists() else "does not exist"
        there = _named(path.parent, _targets(path.parent) or _rows(path.parent))
        raise WeftError(f"{path} {what}" + ("" if there == NONE else f"; there are {there}"))
    for folder in (path, path / RECOMMENDERS):
        if targets := _targets(folder):
            raise WeftError(
                f"{path} holds the recommenders of several targets; name one of them: "
                f"{_named(folder, targets)}"
            )
    file = path / FILE
    rows = _rows(path)
    if not file.is_file():
        if not rows:
            raise WeftError(
                f"{path} is no recommender's folder: it has none of {', '.join(_MANIFESTS)}"
            )
        raise WeftError(
            f"{path} has no {FILE} that says which row to serve; name one: {_named(path, rows)}"
        )
    values = read_object(file)
    try:
        found = checked(_Recommendation, values)
    except WeftError as error:
        raise WeftError(f"{file}: {error}") from None
    if found.row is None:
        why = f" ({found.reason})" if found.reason else ""
        raise WeftError(f"{file} recommends no row{why}; name one: {_named(path, rows)}")
    if found.folder is None:
        raise WeftError(
            f"{file} takes the row '{found.row}', which has no folder; name one: "
            f"{_named(path, rows)}"
        )
    inside = PurePosixPath(found.folder)
    if inside.is_absolute() or ".." in inside.parts or not inside.parts:
        raise WeftError(f"{file}: folder: '{found.folder}' does not lie in {path}")
    if not is_recommender(path / inside):
        raise WeftError(
            f"{file} takes the row '{found.row}', and {path / inside} is no recommender's folder; "
            f"name one: {_named(path, rows)}"
        )
    return Chosen(path / inside, found.row, found.reason)


def _rows(folder: Path) -> list[str]:
    """The recommenders in a folder."""
    if not folder.is_dir():
        return []
    return sorted(one.name for one in folder.iterdir() if one.is_dir() and is_recommender(one))


def _targets(folder: Path) -> list[str]:
    """The folders in a folder that hold recommenders."""
    if not folder.is_dir():
        return []
    return sorted(one.name for one in folder.iterdir() if one.is_dir() and _rows(one))


def _named(path: Path, rows: list[str]) -> str:
    return ", ".join(str(path / row) for row in rows) or NONE
