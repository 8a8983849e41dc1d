"""A recommender as a folder: the one place that opens, writes and publishes it.

A folder holds what scores items (see `weft.recommenders.forms`), items.parquet, the catalogue that
it ranks, and popularity.parquet, where it is there, how often each item was taken. A folder without
items.parquet is what a training stage leaves: weights for any catalogue.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft.artifacts.atomic import new_directory
from weft.data.catalogue import FILE as CATALOGUE
from weft.data.catalogue import load_catalogue, save_catalogue
from weft.data.domain import Catalogue
from weft.recommenders.asking import LoadedRecommender, Suggestion
from weft.recommenders.chosen import choose
from weft.recommenders.contract import OnRead, ReadingProgress, Recommender, RecommenderSettings
from weft.recommenders.forms import Opening, SavedAdapter, SavedForm, read_form
from weft.recommenders.item_counts import ItemCounts

if TYPE_CHECKING:
    from weft.adapters import Adapter
    from weft.backbones import Precision

__all__ = [
    "LoadedRecommender",
    "Suggestion",
    "load_recommender",
    "open_recommender",
    "save_recommender",
]

VECTORS = ".vectors"

VectorProgress = Callable[[int, int], None]
"""Called with the item texts whose vectors are computed, first 0, and their number in all."""


def load_recommender(
    path: str | Path,
    items: str | Path | None = None,
    *,
    precision: Precision = "auto",
    device: str = "cpu",
    progress: VectorProgress | None = None,
) -> LoadedRecommender:
    """Open a recommender's folder, whatever it holds, to ask it in titles and item ids.

    Of a target's folder in a run (`recommenders/<target>`) it is the row that its
    recommendation.json names. `items` is another catalogue to rank (the folder's own items may
    stand in histories all the same): items.parquet, a CSV file with the columns `item_id` and
    `title`, or a text file of titles, one a line.

    Item vectors are stored in the folder's `.vectors`, by the hash of all that decides them;
    `progress(done, total)` is called while they are computed. See `save_recommender` for an
    example.

    >>> load_recommender("no/such/folder")
    Traceback (most recent call last):
    ...
    weft.errors.NotFoundError: no/such/folder does not exist
    """
    folder = choose(Path(path)).folder
    form = read_form(folder)
    catalogue = load_catalogue(folder if items is None else Path(items), ids=True)
    opening = Opening(precision, device, cache=folder / VECTORS, light=True)
    recommender = form.recommender(catalogue, opening)
    if progress is not None:
        recommender.on_read = _vectors_counted(progress)
    beside = (
        load_catalogue(folder) if items is not None and (folder / CATALOGUE).is_file() else None
    )
    return LoadedRecommender(recommender, form.split, folder=folder, beside=beside)


def _vectors_counted(progress: VectorProgress) -> OnRead:
    """What a recommender reports while it reads, for someone who waits for item vectors."""
    done = 0

    def count(reading: ReadingProgress) -> None:
        nonlocal done
        if reading.what == "items":
            done = done + int(reading.count) if reading.count else 0
            progress(done, reading.total)

    return count


def open_recommender(
    folder: Path | str,
    catalogue: Catalogue | None = None,
    opening: Opening | None = None,
    *,
    settings: RecommenderSettings | None = None,
) -> Recommender:
    """The recommender of a folder, published or left by training, over a catalogue.

    Other `settings` score the same weights in another way.
    """
    return read_form(Path(folder)).recommender(catalogue, opening, settings=settings)


def save_recommender(
    weights: Recommender | SavedForm | Adapter,
    catalogue: Catalogue | None,
    path: Path | str,
    *,
    manifest: Mapping[str, Any] | None = None,
    counts: ItemCounts | None = None,
    replace: bool = False,
) -> None:
    """Write a recommender's folder, whole or not at all: a recommender as it is now, what another
    folder holds (`read_form`), or an adapter.

    Entries of `manifest` stand in weft.json in the place of those that there are: `recommender`,
    `split`, domains, data, versions.

    >>> import tempfile, weft
    >>> home = weft.mall(users=30, items=30)["home"]
    >>> popular = weft.Popularity.of(weft.leave_one_out(home).train)
    >>> folder = Path(tempfile.mkdtemp()) / "popular"
    >>> save_recommender(popular, home.items, folder, manifest={"split": "leave_one_out"})
    >>> [one.item_id for one in load_recommender(folder).recommend([[]], k=3)[0]]
    ['home-00018', 'home-00025', 'home-00003']
    """
    if not isinstance(weights, Recommender | SavedForm):
        weights = SavedAdapter.of(weights)
    with new_directory(Path(path), replace=replace) as folder:
        weights.write(folder, manifest or {})
        if catalogue is not None:
            save_catalogue(catalogue, folder)
        if counts is not None:
            counts.save(folder)
