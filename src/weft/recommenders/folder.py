"""A recommender as a folder: an adapter, how to use it, and the catalogue it ranks.

The folder stays a valid PEFT adapter; `weft.json` says in `recommender` how it scores items, and
items.parquet is the catalogue. Folders of integrators and of whole models are opened here too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.adapters import Adapter, load_adapter, write_adapter
from weft.adapters.adapter import MANIFEST
from weft.artifacts.atomic import new_directory
from weft.backbones import Precision
from weft.data.catalogue import load_catalogue, save_catalogue
from weft.data.domain import Catalogue
from weft.errors import WeftError
from weft.recommenders.checkpoint_folder import checkpoint_settings, is_checkpoint
from weft.recommenders.integrator_folder import is_integrator, load_integrated
from weft.recommenders.kinds import AnyRecommender, make_recommender, recommender_settings


@dataclass(frozen=True)
class Suggestion:
    """One recommended item."""

    item_id: str
    title: str
    score: float


def save_recommender(
    adapter: Adapter, catalogue: Catalogue, path: Path, *, replace: bool = False
) -> None:
    """Write the folder, whole or not at all."""
    with new_directory(path, replace=replace) as folder:
        write_adapter(adapter, folder)
        save_catalogue(catalogue, folder)


class LoadedRecommender:
    """A recommender from a folder, asked in titles or item ids and answering in items."""

    def __init__(
        self, recommender: AnyRecommender, split: str | Mapping[str, Any] = "leave_one_out"
    ) -> None:
        self.recommender = recommender
        self.split = split  # under which it was trained: other splits may test what it has seen

    @property
    def catalogue(self) -> Catalogue:
        return self.recommender.catalogue

    def recommend(
        self, histories: Sequence[Sequence[str]], k: int = 10, *, mask_history: bool = True
    ) -> list[list[Suggestion]]:
        """The k best items for each history of titles, oldest first; new users and batches alike.

        An entry that is an item id of the catalogue stands for that item's title. A history
        without a title that says something is a `WeftError`.
        """
        if k < 1:
            raise WeftError(f"k must be at least 1, not {k}")
        _check_histories(histories)
        index, titles = self.catalogue.index, self.catalogue.titles
        spoken = [[titles[index[t]] if t in index else t for t in history] for history in histories]
        for number, history in enumerate(spoken, start=1):
            if not any(title.strip() for title in history):
                raise WeftError(f"history {number} needs at least one title that is not empty")
        ranking = self.recommender.top_k_of_titles(spoken, k, mask_history=mask_history)
        ids = self.catalogue.item_ids
        return [
            [
                Suggestion(ids[item], titles[item], float(score))
                for item, score in zip(items, scores, strict=True)
                if score > -float("inf")
            ]
            for items, scores in zip(ranking.items.tolist(), ranking.scores, strict=True)
        ]


def _check_histories(histories: Sequence[Sequence[str]]) -> None:
    """Lists of titles, not a title where a list belongs."""
    if isinstance(histories, str):
        raise WeftError("recommend takes a list of histories, each a list of titles, not a string")
    for number, history in enumerate(histories, start=1):
        if isinstance(history, str) or not isinstance(history, Iterable):
            kind = type(history).__name__
            raise WeftError(f"history {number} must be a list of titles, not a {kind}: {history!r}")
        for entry in history:
            if not isinstance(entry, str):
                kind = type(entry).__name__
                raise WeftError(f"history {number} must hold titles, not a {kind}: {entry!r}")


def load_recommender(
    path: str | Path,
    items: str | Path | None = None,
    *,
    precision: Precision = "auto",
    device: str = "cpu",
) -> LoadedRecommender:
    """Open a recommender's folder: an adapter's, an integrator's or a whole model's. `items` is
    another catalogue to rank: items.parquet, a CSV file with a column `title`, or a text file of
    titles, one a line.

    Item vectors are cached in the folder's `.vectors`, by the hash of the weights.
    """
    folder = Path(path)
    if is_integrator(folder):
        other = Path(items) if items is not None else None
        trained, made = load_integrated(folder, other, precision=precision, device=device)
        return LoadedRecommender(made, trained.manifest.get("split", "leave_one_out"))
    if is_checkpoint(folder):
        settings, split = checkpoint_settings(folder)
        how: dict[str, Any] = {"precision": precision, "device": device}
        catalogue = load_catalogue(Path(items) if items is not None else folder)
        whole = make_recommender(str(folder), settings, catalogue, cache=folder / ".vectors", **how)
        return LoadedRecommender(whole, split)
    adapter = load_adapter(folder)
    said = adapter.manifest.get("recommender")
    if not isinstance(said, dict):
        raise WeftError(f"{folder / MANIFEST} does not say how this adapter scores items")
    try:
        settings = recommender_settings(said)
    except WeftError as error:
        raise WeftError(f"{folder / MANIFEST}: recommender: {error}") from None
    catalogue = load_catalogue(Path(items) if items is not None else folder)
    backbone = adapter.manifest["backbone"]["name"]
    return LoadedRecommender(
        make_recommender(
            backbone,
            settings,
            catalogue,
            adapter=adapter,
            precision=precision,
            device=device,
            cache=folder / ".vectors",
        ),
        adapter.manifest.get("split", "leave_one_out"),
    )
