"""A recommender as a folder: what scores items, and the catalogue it ranks.

An adapter's folder stays a valid PEFT adapter; `weft.json` says in `recommender` how it scores
items, items.parquet is the catalogue, and popularity.parquet, where it is there, how often each item
was taken. Folders of integrators, of whole models and of the floors are opened here too.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft.artifacts.atomic import new_directory
from weft.data.catalogue import FILE as CATALOGUE
from weft.data.catalogue import load_catalogue, save_catalogue
from weft.data.domain import Catalogue
from weft.errors import WeftError
from weft.recommenders.asking import LoadedRecommender, Suggestion
from weft.recommenders.chosen import choose
from weft.recommenders.floors import floor_of, load_popularity
from weft.recommenders.item_counts import ItemCounts

if TYPE_CHECKING:
    import torch

    from weft.adapters import Adapter
    from weft.backbones import Precision
    from weft.recommenders.bi_encoder import VectorProgress

__all__ = ["LoadedRecommender", "Suggestion", "load_recommender", "save_recommender"]

MANIFEST, VECTORS = "weft.json", ".vectors"


def save_recommender(
    adapter: Adapter,
    catalogue: Catalogue,
    path: Path,
    *,
    replace: bool = False,
    dtype: torch.dtype | None = None,
    counts: ItemCounts | None = None,
) -> None:
    """Write the folder, whole or not at all; factors in float32 or rounded to `dtype`."""
    from weft.adapters import write_adapter

    with new_directory(path, replace=replace) as folder:
        write_adapter(adapter, folder, dtype=dtype)
        save_catalogue(catalogue, folder)
        if counts is not None:
            counts.save(folder)


def load_recommender(
    path: str | Path,
    items: str | Path | None = None,
    *,
    precision: Precision = "auto",
    device: str = "cpu",
    progress: VectorProgress | None = None,
) -> LoadedRecommender:
    """Open a recommender's folder: an adapter's, an integrator's, a whole model's, or a floor's.

    Of a target's folder in a run (`recommenders/<target>`) it is the row that its
    recommendation.json names. `items` is another catalogue to rank (the folder's own items may
    stand in histories all the same): items.parquet, a CSV file with the columns `item_id` and
    `title`, or a text file of titles, one a line.

    Item vectors are kept in the folder's `.vectors`, by the hash of all that decides them;
    `progress` is called while they are made.
    """
    folder = choose(Path(path)).folder
    source = Path(items) if items is not None else folder
    floor = floor_of(folder)
    if floor == "popularity":
        return load_popularity(folder, load_catalogue(source, ids=True))
    made, split = _open(folder, source, floor is not None, precision, device)
    if progress is not None and hasattr(made, "progress"):
        made.progress = progress
    own = load_catalogue(folder) if items is not None and (folder / CATALOGUE).is_file() else None
    return LoadedRecommender(made, split, folder=folder, beside=own)


def _open(
    folder: Path, source: Path, zero_shot: bool, precision: Precision, device: str
) -> tuple[Any, Any]:
    """(the recommender, the split under which it was trained); heavy libraries from here on."""
    from weft.adapters import load_adapter
    from weft.backbones.load import named_backbone
    from weft.recommenders.checkpoint_folder import checkpoint_settings, is_checkpoint
    from weft.recommenders.integrator_folder import is_integrator, load_integrated
    from weft.recommenders.kinds import make_recommender, recommender_settings

    common: dict[str, Any] = {"precision": precision, "device": device}
    if is_integrator(folder):
        catalogue = load_catalogue(source, ids=True)
        trained, integrated = load_integrated(folder, catalogue, **common)
        return integrated, trained.manifest.get("split", "leave_one_out")
    common |= {"cache": folder / VECTORS, "light": True}
    if zero_shot:
        from weft.recommenders.floors import load_zero_shot

        return load_zero_shot(folder, load_catalogue(source, ids=True), **common)
    if is_checkpoint(folder):
        settings, split = checkpoint_settings(folder)
        catalogue = load_catalogue(source, ids=True)
        return make_recommender(str(folder), settings, catalogue, **common), split
    adapter = load_adapter(folder)
    described = adapter.manifest.get("recommender")
    if not isinstance(described, dict):
        raise WeftError(f"{folder / MANIFEST} does not say how this adapter scores items")
    try:
        settings = recommender_settings(described)
    except WeftError as error:
        raise WeftError(f"{folder / MANIFEST}: recommender: {error}") from None
    catalogue = load_catalogue(source, ids=True)
    backbone = named_backbone(adapter.manifest["backbone"]["name"], folder / MANIFEST)
    made = make_recommender(backbone, settings, catalogue, adapter=adapter, **common)
    return made, adapter.manifest.get("split", "leave_one_out")
