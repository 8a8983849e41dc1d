"""Readers: one file a format. This table is the only list of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from weft.data.lists import expand_lists
from weft.data.raw import RawLog
from weft.data.readers.amazon_2014 import read_amazon_2014
from weft.data.readers.amazon_2018 import read_amazon_2018
from weft.data.readers.amazon_2023 import read_amazon_2023
from weft.data.readers.containers import refuse_container
from weft.data.readers.mapped import (
    CSV,
    JSONL,
    PARQUET,
    TSV,
    read_csv_log,
    read_jsonl_log,
    read_parquet_log,
    read_tsv_log,
)  # fmt: skip
from weft.data.readers.movielens import read_movielens
from weft.data.readers.recbole import read_recbole
from weft.data.source import Source
from weft.errors import NotFoundError, SettingError


@dataclass(frozen=True)
class Reader:
    """One format. `patterns` are the names of its files, by which it is recognised."""

    name: str
    summary: str
    read: Callable[[Source], RawLog]
    patterns: tuple[str, ...] = ()
    mapped: bool = False  # uses columns, item_columns, time_unit, time_format, list_separator
    headerless: bool = False  # uses header and quoting
    delimited: bool = False  # uses separator
    text: bool = False  # uses encoding


READERS: tuple[Reader, ...] = (
    Reader(
        "parquet",
        "a folder with interactions.parquet and items.parquet, or two parquet files",
        read_parquet_log, PARQUET, mapped=True,
    ),
    Reader(
        "csv", "comma-separated text, .gz or not", read_csv_log, CSV,
        mapped=True, headerless=True, delimited=True, text=True,
    ),
    Reader(
        "tsv", "tab-separated text, .gz or not", read_tsv_log, TSV,
        mapped=True, headerless=True, delimited=True, text=True,
    ),
    Reader(
        "jsonl", "one JSON object a line, or one JSON array of them, .gz or not", read_jsonl_log,
        JSONL, mapped=True, text=True,
    ),
    Reader(
        "recbole", "RecBole atomic files: x.inter and x.item", read_recbole, ("*.inter",),
        mapped=True, delimited=True, text=True,
    ),
    Reader("movielens", "MovieLens ratings.dat and movies.dat", read_movielens, ("ratings.dat",)),
    Reader(
        "amazon-2014", "Amazon reviews_X.json.gz or ratings_X.csv, and meta_X.json.gz",
        read_amazon_2014,
    ),
    Reader(
        "amazon-2018", "Amazon X_5.json.gz or X.csv, and meta_X.json.gz", read_amazon_2018
    ),
    Reader(
        "amazon-2023", "Amazon X.jsonl or X.csv, and meta_X.jsonl, .gz or not", read_amazon_2023
    ),
)  # fmt: skip


def find_reader(source: Source) -> Reader:
    """The reader named by `source.format`, or the one that the file's name shows."""
    by_name = {reader.name: reader for reader in READERS}
    path = source.interactions
    if source.format is None:
        reader = next((r for r in READERS if _matches(path, r)), None)
        if reader is None:
            _exists(path)
            refuse_container(path)
            raise SettingError(
                f"the format of {path} is not clear from its name; name it with --format:"
                f" {_names()}"
            )
    elif source.format in by_name:
        reader = by_name[source.format]
    else:
        raise SettingError(f"there is no format '{source.format}'; there are {_names()}")
    _refuse_unused(source, reader)
    return reader


def read_source(source: Source) -> RawLog:
    """Read a log in any format. Raises `WeftError` with file, column and row."""
    reader = find_reader(source)
    _exists(source.interactions)
    if source.interactions.is_dir() and reader.headerless:
        raise SettingError(
            f"{source.interactions} is a folder; name the file to read in it{_inside(source.interactions, reader)}"
        )
    for file in (source.interactions, source.items):
        if file is not None:
            refuse_container(file)
    raw = reader.read(source)
    if reader.mapped:
        raw = expand_lists(replace(raw, time_format=source.time_format), source)
    notes = (note for table in (raw.interactions, raw.items) if table for note in table.notes)
    raw = replace(raw, notes=(*raw.notes, *notes))
    if raw.items is None and source.item_columns:
        raise SettingError("item_columns maps columns of an items file, but no items file is given")
    return raw


def _matches(path: Path, reader: Reader) -> bool:
    if path.is_dir():
        return any(next(path.glob(pattern), None) for pattern in reader.patterns)
    return any(path.match(pattern) for pattern in reader.patterns)


def _refuse_unused(source: Source, reader: Reader) -> None:
    items = source.items
    beside = items is not None and any(items.match(pattern) for pattern in (*CSV, *TSV))
    delimited = reader.mapped and (reader.delimited or beside)
    unused = {
        "columns": bool(source.columns) and not reader.mapped,
        "item_columns": bool(source.item_columns) and not reader.mapped,
        "time_unit": source.time_unit is not None and not reader.mapped,
        "time_format": source.time_format is not None and not reader.mapped,
        "header": not source.header and not reader.headerless,
        "separator": source.separator is not None and not delimited,
        "quoting": source.quoting != "csv" and not (delimited and (reader.headerless or beside)),
        "encoding": source.encoding is not None and not (reader.text or beside),
        "list_separator": source.list_separator is not None and not reader.mapped,
    }
    for setting, is_unused in unused.items():
        if is_unused:
            raise SettingError(f"the format {reader.name} is fixed; it takes no '{setting}'")


def _inside(folder: Path, reader: Reader) -> str:
    files = sorted(file for pattern in reader.patterns for file in folder.glob(pattern))
    names = [str(file) for file in files[:2]] + (["…"] if len(files) > 2 else [])
    return f": {', '.join(names)}" if names else ""


def _names() -> str:
    return ", ".join(reader.name for reader in READERS)


def _exists(path: Path) -> None:
    if not path.exists():
        raise NotFoundError(f"{path} does not exist")
