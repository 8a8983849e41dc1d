"""The parquet pair: a folder with interactions.parquet and items.parquet. Weft's own format."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from weft.data.raw import RawLog, Table
from weft.errors import WeftError


def read_pair(folder: Path) -> RawLog:
    """Read a domain folder. Raises `WeftError` if it is no such folder or a file is broken."""
    folder = Path(folder)
    if not folder.is_dir():
        raise WeftError(f"{folder} is not a folder; a domain is a folder with interactions.parquet")
    return RawLog(_scan(folder / "interactions.parquet"), _scan(folder / "items.parquet"))


def _scan(file: Path) -> Table:
    if not file.is_file():
        raise WeftError(f"{file} does not exist; a domain folder has it")
    try:
        frame = pl.scan_parquet(file, glob=False)
        frame.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise WeftError(f"{file} is not a whole parquet file: {error}") from None
    return Table(file, frame)
