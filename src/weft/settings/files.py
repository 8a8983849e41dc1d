"""Files of settings: YAML, or JSON where the file's name ends so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from weft.artifacts.documents import read_object
from weft.errors import DataError, SettingError, WeftError, located
from weft.settings.model import validate
from weft.settings.yaml_documents import read_yaml

Model = TypeVar("Model", bound=BaseModel)


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping of settings in a YAML file, or in a `.json` file."""
    if Path(path).suffix == ".json":
        return read_object(path)
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise DataError(f"{path} is no recipe: it holds no mapping of settings")
    return values


def read_settings(
    path: Path, model: type[Model], defaults: Mapping[str, Any] | None = None
) -> Model:
    """The settings in a file as a `model`, on top of `defaults`.

    What is wrong with them is one `SettingError` that names file and field.
    """
    return validate_file(path, model, {**(defaults or {}), **read_mapping(path)})


def read_manifest(path: Path, model: type[Model]) -> Model:
    """A JSON file that a program wrote, as a `model`.

    What is wrong with it is one `DataError` that names file and field.
    """
    return validate_file(path, model, read_object(path), DataError)


def validate_file(
    path: Path,
    model: type[Model],
    values: Mapping[str, Any],
    error: type[WeftError] = SettingError,
) -> Model:
    """`validate` of what a file holds: the sentence begins with the file."""
    with located(path):
        return validate(model, values, error)
