"""A catalogue on its own, without anyone's interactions: items.parquet."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from weft.data.domain import Catalogue
from weft.data.texts import check_ids, text_column
from weft.errors import DataError, NotFoundError

FILE = "items.parquet"


def save_catalogue(catalogue: Catalogue, folder: Path | str) -> None:
    """Write items.parquet into an existing folder; equal catalogues give equal bytes."""
    catalogue.frame.write_parquet(Path(folder) / FILE, compression="zstd", statistics=False)


def load_catalogue(path: Path | str, *, ids: bool = False) -> Catalogue:
    """Read items.parquet, given the file or a folder that has it; or a `.csv` or `.tsv` file, or a
    `.txt` file of titles, one a line.

    Needs the columns `item_id` (unique, not empty) and `title`; null texts become empty strings. A
    `.txt` file has no ids: the number of the line, from 1, takes their place. Other text files
    do without them too, by the number of the row, unless `ids` are asked for.
    """
    path = Path(path)
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise NotFoundError(f"{file} does not exist; name a catalogue with --items")
    kind = file.suffix.lower()
    frame = _titles(file, ids) if kind in (".csv", ".tsv", ".txt") else _parquet(file)
    for column in ("item_id", "title"):
        if column not in frame.columns:
            raise DataError(f"{file} lacks the column '{column}'")
    check_ids(file, frame.schema["item_id"])
    texts = frame.select(text_column(file, one, dtype) for one, dtype in frame.schema.items())
    empty = texts["item_id"].str.strip_chars() == ""
    if empty.any():
        raise DataError(f"{file}: item_id is empty in row {empty.arg_true()[0] + 1}")
    repeated = texts["item_id"].is_duplicated()
    if repeated.any():
        row = repeated.arg_true()[0]
        raise DataError(f"{file}: item_id '{texts['item_id'][row]}' is in two rows (row {row + 1})")
    return Catalogue(texts)


def _parquet(file: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(file, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(
            f"{file} is no readable parquet file: {str(error).splitlines()[0]}"
        ) from None


def _titles(file: Path, ids: bool) -> pl.DataFrame:
    """A catalogue in text; lines of a `.txt` file that are empty are no items."""
    try:
        if file.suffix.lower() == ".txt":
            text = file.read_text("utf-8-sig")
            lines = [(str(n), one.strip()) for n, one in enumerate(text.splitlines(), start=1)]
            filled = [one for one in lines if one[1]]
            schema = {"item_id": pl.String, "title": pl.String}
            frame = pl.DataFrame(filled, schema, orient="row")
        else:
            separator = "\t" if file.suffix.lower() == ".tsv" else ","
            frame = pl.read_csv(file, separator=separator, infer_schema=False, glob=False)
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or ["?"])[0]
        raise DataError(f"{file} can't be read as a catalogue: {reason}") from None
    if frame.is_empty():
        raise DataError(f"{file} holds no items")
    if "item_id" not in frame.columns:
        if ids:
            raise DataError(
                f"{file} has no column 'item_id', so nothing names the items; it has "
                f"{', '.join(frame.columns)}: rename the one with the ids"
            )
        numbers = pl.int_range(1, frame.height + 1, eager=True).cast(pl.String)
        frame = frame.with_columns(numbers.alias("item_id"))
    return frame
