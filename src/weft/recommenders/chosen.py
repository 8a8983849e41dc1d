"""Which of a target's recommenders to serve, as the run decided that trained them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import ConfigDict, Field

from weft.errors import DataError, NotFoundError, SettingError
from weft.recommenders.forms import MANIFESTS, is_recommender
from weft.settings import StrictModel
from weft.settings.files import read_manifest

FILE, RECOMMENDERS = "recommendation.json", "recommenders"
NONE = "there are none"


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
        raise NotFoundError(f"{path} {what}" + ("" if there == NONE else f"; there are {there}"))
    for folder in (path, path / RECOMMENDERS):
        if targets := _targets(folder):
            raise SettingError(
                f"{path} holds the recommenders of several targets; name one of them: "
                f"{_named(folder, targets)}"
            )
    file = path / FILE
    rows = _rows(path)
    if not file.is_file():
        if not rows:
            raise NotFoundError(
                f"{path} is no recommender's folder: it has none of {', '.join(MANIFESTS)}"
            )
        raise NotFoundError(
            f"{path} has no {FILE} that says which row to serve; name one: {_named(path, rows)}"
        )
    recommendation = read_manifest(file, _Recommendation)
    if recommendation.row is None:
        why = f" ({recommendation.reason})" if recommendation.reason else ""
        raise NotFoundError(f"{file} recommends no row{why}; name one: {_named(path, rows)}")
    if recommendation.folder is None:
        raise NotFoundError(
            f"{file} takes the row '{recommendation.row}', which has no folder; name one: "
            f"{_named(path, rows)}"
        )
    inside = PurePosixPath(recommendation.folder)
    if inside.is_absolute() or ".." in inside.parts or not inside.parts:
        raise DataError(f"{file}: folder: '{recommendation.folder}' does not lie in {path}")
    if not is_recommender(path / inside):
        raise NotFoundError(
            f"{file} takes the row '{recommendation.row}', and {path / inside} is no recommender's folder; "
            f"name one: {_named(path, rows)}"
        )
    return Chosen(path / inside, recommendation.row, recommendation.reason)


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
