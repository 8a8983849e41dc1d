"""A recommender whose every parameter was trained, or merged, as a folder.

The folder is a model's as any other (transformers reads it); `weft.json` says in `recommender` how
it scores items, and items.parquet, where it is there, is the catalogue.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weft.artifacts.atomic import new_directory, read_json, write_json
from weft.data.catalogue import save_catalogue
from weft.data.domain import Catalogue
from weft.errors import WeftError
from weft.recommenders.item_counts import ItemCounts
from weft.recommenders.kinds import AnySettings, recommender_settings

MANIFEST = "weft.json"
KINDS = ("checkpoint", "merged checkpoint")


def is_checkpoint(path: Path) -> bool:
    """Whether a folder holds a trained or merged model in full."""
    said = read_json(path / MANIFEST) if (path / MANIFEST).is_file() else None
    return isinstance(said, dict) and said.get("kind") in KINDS


def save_checkpoint_recommender(
    source: Path,
    catalogue: Catalogue,
    path: Path,
    *,
    recommender: Mapping[str, Any],
    split: Any = "leave_one_out",
    replace: bool = False,
    counts: ItemCounts | None = None,
) -> None:
    """Write the folder, whole or not at all: `source`'s files, how it scores, and its catalogue.

    Weights are linked where the file system allows it: one model for many catalogues takes the
    place of one.
    """
    with new_directory(path, replace=replace) as folder:
        for file in sorted(source.rglob("*")):
            if file.is_file():
                copy = folder / file.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                _link(file, copy)
        said = read_json(source / MANIFEST)
        (folder / MANIFEST).unlink()  # a link would be written through
        write_json(folder / MANIFEST, {**said, "recommender": dict(recommender), "split": split})
        save_catalogue(catalogue, folder)
        if counts is not None:
            counts.save(folder)


def _link(file: Path, copy: Path) -> None:
    try:
        os.link(file, copy)
    except OSError:
        shutil.copyfile(file, copy)


def checkpoint_settings(folder: Path) -> tuple[AnySettings, Any]:
    """(how the model in a folder scores items, the split under which it was trained).

    Raises `WeftError` where its weft.json does not say.
    """
    said = read_json(folder / MANIFEST)
    recommender = said.get("recommender")
    if not isinstance(recommender, dict):
        raise WeftError(f"{folder / MANIFEST} does not say how this model scores items")
    try:
        settings = recommender_settings(recommender)
    except WeftError as error:
        raise WeftError(f"{folder / MANIFEST}: recommender: {error}") from None
    return settings, said.get("split", "leave_one_out")
