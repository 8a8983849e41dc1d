"""Formats with a column map: a log, and an items file whose name shows its format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from weft.data.raw import RawLog, Table
from weft.data.readers.delimited import map_columns, only_item_texts, read_csv, read_tsv
from weft.data.readers.jsonl import read_jsonl, read_jsonl_items
from weft.data.readers.parquet import read_pair, read_parquet_file
from weft.data.source import Source

FileReader = Callable[[Source, Path, Mapping[str, str]], Table]
"""One file under weft's names: `columns` maps weft's name -> the file's."""

CSV = ("*.csv", "*.csv.gz")
TSV = ("*.tsv", "*.tsv.gz")
JSONL = tuple(f"*.{name}{gz}" for name in ("jsonl", "ndjson", "json") for gz in ("", ".gz"))
PARQUET = ("*.parquet",)

ITEM_READERS: tuple[tuple[tuple[str, ...], FileReader], ...] = (
    (CSV, read_csv),
    (TSV, read_tsv),
    (JSONL, read_jsonl_items),
    (PARQUET, read_parquet_file),
)


def read_items_file(source: Source, file: Path, otherwise: FileReader) -> Table:
    """The items in the format that the file's name shows, or else in the log's."""
    for patterns, read in ITEM_READERS:
        if any(file.match(pattern) for pattern in patterns):
            return read(source, file, source.item_columns)
    return otherwise(source, file, source.item_columns)


def two_files(read_log: FileReader, read_items: FileReader) -> Callable[[Source], RawLog]:
    """The reader of a format, of the reader of its log and that of its items."""

    def read(source: Source) -> RawLog:
        log = read_log(source, source.interactions, source.columns)
        if source.items is None:
            return RawLog(only_item_texts(log, source.columns), None, source.time_unit)
        return RawLog(log, read_items_file(source, source.items, read_items), source.time_unit)

    return read


read_csv_log = two_files(read_csv, read_csv)
read_tsv_log = two_files(read_tsv, read_tsv)
read_jsonl_log = two_files(read_jsonl, read_jsonl_items)


def read_parquet_log(source: Source) -> RawLog:
    """A folder with the pair, or two parquet files of any name, with a column map."""
    if not source.interactions.is_dir():
        return two_files(read_parquet_file, read_parquet_file)(source)
    pair = read_pair(source.interactions)
    assert pair.items is not None
    items = (
        map_columns(pair.items, source.item_columns)
        if source.items is None
        else read_items_file(source, source.items, read_parquet_file)
    )
    return RawLog(map_columns(pair.interactions, source.columns), items, source.time_unit)
