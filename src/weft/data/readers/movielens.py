"""MovieLens .dat files (1M, 10M): ratings.dat and movies.dat, fields separated by "::"."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import polars as pl

from weft.data.faults import refusal
from weft.data.raw import NAMED, BadRows, RawLog, Table
from weft.data.readers.files import read_all
from weft.data.source import Source

YEAR = re.compile(r"\((\d{4})\)\s*$")


def read_movielens(source: Source) -> RawLog:
    """`interactions` is ratings.dat or the folder with it; movies.dat lies beside it.

    Items get title (with its year in brackets, as written), category (genres, joined with ", ")
    and year.
    """
    place = source.interactions
    ratings = place / "ratings.dat" if place.is_dir() else place
    movies = source.items or ratings.with_name("movies.dat")
    drop = source.bad_rows == "drop"
    log = _fields(ratings, ("user_id", "item_id", "rating", "timestamp"), drop)
    return RawLog(log, _movies(_fields(movies, ("item_id", "title", "category"), drop)))


def _movies(table: Table) -> Table:
    frame = table.frame.with_columns(
        pl.col("title").str.strip_chars(),
        pl.col("category").str.replace_all("|", ", ", literal=True),
        pl.col("title").str.extract(YEAR.pattern).fill_null("").alias("year"),
    )
    return replace(table, frame=frame)


def _fields(file: Path, columns: tuple[str, ...], drop_bad: bool) -> Table:
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
    size = pl.col("line").list.len()
    is_wrong = size < 3 if len(columns) == 3 else size != len(columns)  # of movies: titles
    sentences = [
        f"{file}, line {number}: {len(cells)} fields separated by '::', not {len(columns)}"
        f" ({', '.join(columns)})"
        for number, cells in parts.filter(is_wrong).head(NAMED).rows()
    ]
    bad = BadRows(parts.filter(is_wrong).height, tuple(sentences))
    if bad.count and not drop_bad:
        raise refusal(sentences[0], bad.count)
    parts = parts.filter(~is_wrong)
    cells = pl.col("line")
    middle = cells.list.slice(1, cells.list.len() - 2).list.join("::")
    split = [cells.list.get(i) for i in range(len(columns))]
    if len(columns) == 3:
        split = [cells.list.first(), middle, cells.list.last()]
    frame = parts.select(e.alias(c) for e, c in zip(split, columns, strict=True))
    numbers = parts["number"]
    return Table(file, frame.lazy(), lambda row: f"line {numbers[row]}", bad=bad)
