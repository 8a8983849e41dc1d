"""Words that programs write for a missing value: such a cell holds nothing."""

from __future__ import annotations

import polars as pl

from weft.data.raw import Table

# R, pandas (str of a missing value, na_rep), databases, spreadsheets; exactly as they write them
WORDS = (
    "nan", "NaN", "NAN", "-nan", "null", "NULL", "Null", "None", "NONE", "<NA>", "NaT", "\\N",
    "NA", "N/A", "n/a", "#N/A", "<null>", "(null)", "undefined",
)  # fmt: skip


def is_word(cells: pl.Series) -> pl.Series:
    """[n] bool: does the cell hold such a word? A null does not."""
    return cells.cast(pl.String).is_in(WORDS).fill_null(False)


def means_none(value: object) -> str:
    """What is wrong with such a cell; completes "column 'x' …"."""
    return f"= {value!r}, which is how programs write that there is none"


def blank_titles(frame: pl.DataFrame, table: Table) -> tuple[pl.DataFrame, str]:
    """A catalogue whose titles "nan", "NULL", … are "" where two items or more have one; a note.

    A single item may be called so; two are not.
    """
    word = is_word(frame["title"])
    count = int(word.sum())
    if count < 2:
        return frame, ""
    first = frame["title"].filter(word)[0]
    frame = frame.with_columns(pl.when(word).then(pl.lit("")).otherwise("title").alias("title"))
    return frame, (
        f"{table.file}: {count:,} items have '{first}' or the like in column"
        f" '{table.called('title')}', which is how programs write that there is none; they count as"
        " items without a title"
    )
