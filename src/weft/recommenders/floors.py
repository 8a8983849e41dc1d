"""The floors as recommenders' folders, so that a run may serve one: popularity, and the backbone
as it is (zero-shot). `weft.json` says which in `kind`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field

from weft.artifacts.atomic import new_directory, read_json, write_json
from weft.data.catalogue import save_catalogue
from weft.data.domain import Catalogue
from weft.data.source import checked
from weft.errors import WeftError
from weft.recommenders.asking import LoadedRecommender
from weft.recommenders.item_counts import FILE, ItemCounts, load_item_counts
from weft.recommenders.popularity import Popularity
from weft.settings import StrictModel

MANIFEST = "weft.json"
Floor = Literal["popularity", "zero_shot"]


class _Backbone(StrictModel):
    model_config = ConfigDict(extra="ignore")

    name: str = Field(min_length=1)
    fingerprint: str = Field(min_length=1)


class _ZeroShot(StrictModel):
    """The entries of a zero-shot recommender's weft.json."""

    model_config = ConfigDict(extra="ignore")

    backbone: _Backbone
    recommender: dict[str, Any]
    split: Any = "leave_one_out"


def floor_of(folder: Path) -> Floor | None:
    """Which floor a folder holds; None where it is no floor's."""
    file = folder / MANIFEST
    values = read_json(file) if file.is_file() else None
    kind = values.get("kind") if isinstance(values, dict) else None
    return kind if kind in ("popularity", "zero_shot") else None


def save_popularity(
    counts: ItemCounts,
    path: Path,
    *,
    split: Any = "leave_one_out",
    manifest: Mapping[str, Any] | None = None,
    replace: bool = False,
) -> None:
    """Write the folder of the recommender that suggests what was taken most; `manifest` is what
    else is to stand in weft.json (domains, data, versions)."""
    with new_directory(path, replace=replace) as folder:
        write_json(folder / MANIFEST, {**(manifest or {}), "kind": "popularity", "split": split})
        save_catalogue(counts.catalogue, folder)
        counts.save(folder)


def load_popularity(folder: Path, catalogue: Catalogue) -> LoadedRecommender:
    """Open it, for a catalogue."""
    counts = load_item_counts(folder, catalogue)
    if counts is None:
        raise WeftError(f"{folder / FILE} does not exist, and a popularity recommender is that")
    split = read_json(folder / MANIFEST).get("split", "leave_one_out")
    return LoadedRecommender(Popularity(catalogue, counts.interactions), split, folder=folder)


def save_zero_shot(
    backbone: Mapping[str, Any],
    recommender: Mapping[str, Any],
    catalogue: Catalogue,
    path: Path,
    *,
    split: Any = "leave_one_out",
    manifest: Mapping[str, Any] | None = None,
    counts: ItemCounts | None = None,
    replace: bool = False,
) -> None:
    """Write the folder of an untrained backbone: its {name, fingerprint}, how it scores items
    (a `recommender:` block), and the catalogue."""
    kind = {"kind": "zero_shot", "backbone": dict(backbone), "recommender": dict(recommender)}
    with new_directory(path, replace=replace) as folder:
        write_json(folder / MANIFEST, {**(manifest or {}), **kind, "split": split})
        save_catalogue(catalogue, folder)
        if counts is not None:
            counts.save(folder)


def load_zero_shot(folder: Path, catalogue: Catalogue, **options: Any) -> tuple[Any, Any]:
    """(the recommender, its split); `options` are those of `make_recommender`.

    A backbone that is not the one of weft.json is a `WeftError` that names both.
    """
    from weft.backbones.load import named_backbone
    from weft.recommenders.kinds import make_recommender, recommender_settings

    file = folder / MANIFEST
    try:
        described = checked(_ZeroShot, read_json(file))
        settings = recommender_settings(described.recommender)
    except WeftError as error:
        raise WeftError(f"{file}: {error}") from None
    backbone = named_backbone(described.backbone.name, file)
    made = make_recommender(backbone, settings, catalogue, **options)
    own, there = described.backbone.fingerprint, made.backbone.fingerprint
    if own != there:
        raise WeftError(
            f"{folder} was measured on the backbone {described.backbone.name} ({own}), and the one "
            f"of this name here is another ({there})"
        )
    return made, described.split
