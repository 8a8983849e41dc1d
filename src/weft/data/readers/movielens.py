"""MovieLens .dat files (1M, 10M): ratings.dat and movies.dat, fields separated by "::"."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl

from weft.data.raw import RawLog, Table
from weft.data.readers.files import read_all
from weft.data.source import Source
from weft.errors import WeftError

YEAR = re.compile(r"\((\d{4})\)\s*$")


def read_movielens(source: Source) -> RawLog:
    """`interactions` is ratings.dat or the folder with it; movies.dat lies beside it.

    Items get title (with its year in brackets, as written), category (genres, joined with ", ")
    and year.
    """
    given = source.interactions
    ratings = given / "ratings.dat" if given.is_dir() else given
    movies = source.items or ratings.with_name("movies.dat")
    log = _fields(ratings, ("user_id", "item_id", "rating", "timestamp"))
    return RawLog(log, _movies(_fields(movies, ("item_id", "title", "category"))))


def _movies(table: Table) -> Table:
    frame = table.frame.with_columns(
        pl.col("title").str.strip_chars(),
        pl.col("category").str.replace_all("|", ", ", literal=True),
        pl.col("title").str.extract(YEAR.pattern).fill_null("").alias("year"),
    )
    return Table(table.file, frame, table.place, table.names)


def _fields(file: Path, columns: tuple[str, ...]) -> Table:
    """Split every line at "::"; a title may hold "::" itself, so the last but one field may grow."""
    data = read_all(file)
    try:
        text = data.decode("utf-8")  # 10M is UTF-8
    except UnicodeDecodeError:
        text = data.decode("latin-1")  # 100K and 1M are not
    lines = pl.Series("line", text.split("\n")).str.strip_chars_end("\r")
    numbered = pl.DataFrame({"line": lines}).with_row_index("number", offset=1)
    numbered = numbered.filter(pl.col("line").str.strip_chars() != "")
    parts = numbered.select("number", pl.col("line").str.split("::"))
    wrong = parts.filter(pl.col("line").list.len() != len(columns))
    if len(columns) == 3:  # movies
        wrong = parts.filter(pl.col("line").list.len() < 3)
    if wrong.height:
        number, found = wrong.row(0)
        raise WeftError(
            f"{file}, line {number}: {len(found)} fields separated by '::', not {len(columns)}"
            f" ({', '.join(columns)})"
        )
    cells = pl.col("line")
    middle = cells.list.slice(1, cells.list.len() - 2).list.join("::")
    split = [cells.list.get(i) for i in range(len(columns))]
    if len(columns) == 3:
        split = [cells.list.first(), middle, cells.list.last()]
    frame = parts.select(e.alias(c) for e, c in zip(split, columns, strict=True))
    numbers = numbered["number"]
    return Table(file, frame.lazy(), lambda row: f"line {numbers[row]}")
