"""How often each item was taken: what someone is offered of whom nothing is known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from weft.data.domain import Catalogue, Examples
from weft.data.filters import has_real_times
from weft.errors import DataError, MismatchError
from weft.evaluation.candidates import train_counts

FILE = "popularity.parquet"
RECENT = 0.2  # share of the training interactions, the latest ones, that is recent
_SINCE = "weft_since"  # key of the file's metadata


@dataclass(frozen=True, eq=False)
class ItemCounts:
    """Training interactions of each item of a catalogue, and the recent ones among them.

    `since` is the Unix second from which on they are recent; None where a log has no times: all
    are then.
    """

    catalogue: Catalogue
    interactions: NDArray[np.int64]  # [items]
    recent: NDArray[np.int64]  # [items]
    since: int | None = None

    @classmethod
    def of(cls, train: Examples) -> ItemCounts:
        """Of what the training part of a split sees, the whole of it."""
        counts = train_counts(train)
        domain = train.domain
        if not has_real_times(domain) or not counts.sum():
            return cls(domain.items, counts, counts)
        sequences, seen = domain.sequences, train.seen
        time = sequences.time[seen]
        since = int(np.quantile(time, 1 - RECENT, method="lower"))
        item = sequences.item[seen][time >= since]
        recent = np.bincount(item, minlength=len(domain.items)).astype(np.int64)
        return cls(domain.items, counts, recent, since)

    def on(self, catalogue: Catalogue) -> ItemCounts:
        """The same counts for another catalogue, by item id; 0 for what it has besides."""
        if catalogue is self.catalogue or catalogue.item_ids == self.catalogue.item_ids:
            return ItemCounts(catalogue, self.interactions, self.recent, self.since)
        index = self.catalogue.index
        rows = np.array([index.get(one, -1) for one in catalogue.item_ids], dtype=np.int64)
        every, recent = (
            np.where(rows >= 0, counts[rows], 0) for counts in (self.interactions, self.recent)
        )
        if not every.any():
            raise MismatchError("training saw none of this catalogue's items, so none is popular")
        return ItemCounts(catalogue, every, recent, self.since)

    def order(self) -> NDArray[np.int64]:
        """[items] int64: recently most taken first, then most taken, then as in the catalogue."""
        return np.lexsort((-self.interactions, -self.recent)).astype(np.int64)

    def save(self, folder: Path) -> None:
        """Write popularity.parquet into an existing folder."""
        frame = pl.DataFrame(
            {
                "item_id": self.catalogue.item_ids,
                "interactions": self.interactions,
                "recent": self.recent,
            },
            schema_overrides={"item_id": pl.String},
        )
        since = "" if self.since is None else str(self.since)
        frame.write_parquet(folder / FILE, statistics=False, metadata={_SINCE: since})


def load_item_counts(folder: Path, catalogue: Catalogue) -> ItemCounts | None:
    """The counts beside a recommender, for `catalogue`; None where its folder has none."""
    file = folder / FILE
    if not file.is_file():
        return None
    columns = ("item_id", "interactions", "recent")
    try:
        frame = pl.read_parquet(file, glob=False)
        since = pl.read_parquet_metadata(file).get(_SINCE, "")
    except (pl.exceptions.PolarsError, OSError) as error:
        words = (str(error).splitlines() or ["?"])[0]
        raise DataError(f"{file} is no readable parquet file: {words}") from None
    for column in columns:
        if column not in frame.columns:
            raise DataError(f"{file} lacks the column '{column}'")
    for column in columns[1:]:
        values = frame[column]
        if not values.dtype.is_integer() or values.null_count() or (values < 0).any():
            raise DataError(f"{file}: the column '{column}' must hold whole numbers from 0 on")
    ids = frame["item_id"].cast(pl.String)
    if ids.null_count() or ids.is_duplicated().any():
        raise DataError(f"{file}: every item_id must be there once")
    if since and not since.lstrip("-").isdigit():
        raise DataError(f"{file}: its time '{since}' is no Unix second")
    known = Catalogue(
        pl.DataFrame({"item_id": ids, "title": pl.Series([""] * len(ids), dtype=pl.String)})
    )
    every, recent = (frame[column].to_numpy().astype(np.int64) for column in columns[1:])
    return ItemCounts(known, every, recent, int(since) if since else None).on(catalogue)
