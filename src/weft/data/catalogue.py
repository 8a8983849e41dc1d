"""A catalogue on its own, without anyone's interactions: items.parquet."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from weft.data.domain import Catalogue
from weft.errors import WeftError

FILE = "items.parquet"


def save_catalogue(catalogue: Catalogue, folder: Path) -> None:
    """Write items.parquet into an existing folder; equal catalogues give equal bytes."""
    catalogue.frame.write_parquet(folder / FILE, compression="zstd", statistics=False)


def load_catalogue(path: Path) -> Catalogue:
    """Read items.parquet, given the file or a folder that has it.

    Needs the columns `item_id` (unique) and `title`; null texts become empty strings.
    """
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise WeftError(f"{file} does not exist; name a catalogue with --items")
    try:
        frame = pl.read_parquet(file)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise WeftError(
            f"{file} is no readable parquet file: {str(error).splitlines()[0]}"
        ) from None
    for column in ("item_id", "title"):
        if column not in frame.columns:
            raise WeftError(f"{file} lacks the column '{column}'")
    texts = frame.select(pl.all().cast(pl.String).fill_null(""))
    repeated = texts["item_id"].is_duplicated()
    if repeated.any():
        row = repeated.arg_true()[0]
        raise WeftError(f"{file}: item_id '{texts['item_id'][row]}' is in two rows (row {row + 1})")
    return Catalogue(texts)
