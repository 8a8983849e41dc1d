"""The parquet pair: a folder with interactions.parquet and items.parquet. Weft's own format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from weft.data.raw import RawLog, Table, broken
from weft.data.readers.delimited import map_columns
from weft.data.source import Source
from weft.errors import NotFoundError


def read_pair(folder: Path) -> RawLog:
    """Read a domain folder. Raises `NotFoundError` if it is no such folder, `DataError` if a file is broken."""
    folder = Path(folder)
    if not folder.is_dir():
        raise NotFoundError(
            f"{folder} is not a folder; a domain is a folder with interactions.parquet"
        )
    return RawLog(_scan(folder / "interactions.parquet"), _scan(folder / "items.parquet"))


def read_parquet_file(source: Source, file: Path, columns: Mapping[str, str]) -> Table:
    """One parquet file of any name, with a column map."""
    return map_columns(_scan(file), columns)


def _scan(file: Path) -> Table:
    if not file.is_file():
        raise NotFoundError(f"{file} does not exist")
    try:
        frame = pl.scan_parquet(file, glob=False)
        frame.collect_schema()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise broken(file, error) from None
    return Table(file, frame)
