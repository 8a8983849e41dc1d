"""Delimited text is read as Python's csv reads it, or refused with the line."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weft.data.readers.delimited import read_table
from weft.data.readers.quotes import is_well_formed
from weft.errors import WeftError

CELL = st.text(st.sampled_from("ab\"',;\t\n\r é 1.0\x0b\u2028"), max_size=6)
ROWS = st.integers(2, 4).flatmap(
    lambda width: st.lists(st.lists(CELL, min_size=width, max_size=width), max_size=6)
)


def read(path: Path, separator: str = ",", **options: bool) -> list[tuple[str | None, ...]]:
    return read_table(path, separator, **options).frame.collect().rows()


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=ROWS,
    separator=st.sampled_from(",\t;"),
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
)
def test_what_python_writes_comes_back(
    tmp_path: Path, rows: list[list[str]], separator: str, end: str, quoting: int
) -> None:
    if end == "\n":  # Python quotes a return only where it is part of the line's end
        rows = [[cell.replace("\r", "") for cell in row] for row in rows]
    width = len(rows[0]) if rows else 2
    header = [f"column {n}" for n in range(width)]
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=separator, lineterminator=end, quoting=quoting)  # type: ignore[arg-type]
    writer.writerows([header, *rows])
    (tmp_path / "t.csv").write_bytes(text.getvalue().encode())
    filled = [tuple(row) for row in rows if any(row)]  # a row of nothing is a blank line
    assert read(tmp_path / "t.csv", separator) == filled


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=st.text(st.sampled_from('ab",\n'), max_size=24))
def test_any_text_is_read_as_python_reads_it_or_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_text("x,y,z\n" + text + "\n", newline="")
    every = list(csv.reader(io.StringIO(text + "\n", newline="")))
    try:
        rows = read(tmp_path / "t.csv")
    except WeftError as error:
        assert "t.csv, line " in str(error)
        # refused: too many fields, or a quoted field that runs over lines or to the end
        assert any(len(row) > 3 for row in every) or text.count('"') > 0
        return
    padded = [tuple([*row, "", ""][:3]) for row in every if any(row)]
    assert [tuple(cell or "" for cell in row) for row in rows] == padded


@pytest.mark.parametrize(
    ("text", "well"),
    [
        ("a,b", True), ('"a",b', True), ('"a""b",c', True), ('"",""', True), ('"a\nb",c\n', True),
        ('""""', True), ('a,12" b', False), ('"a"b,c', False), ('a,"b', False), ('a"",b', False),
        ('\ufeff"a",b', True),
    ],
)  # fmt: skip
def test_well_formed_quotes(text: str, well: bool) -> None:
    assert is_well_formed(text.encode(), ",") is well


def test_stray_inch_marks_are_characters(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text('u,i,t,n\nu,a,1,12" vinyl\nu,b,2,"7"" vinyl, red"\nu,c,3,x 5" y "z"\n')
    expected = [
        ("u", "a", "1", '12" vinyl'),
        ("u", "b", "2", '7" vinyl, red'),
        ("u", "c", "3", 'x 5" y "z"'),
    ]
    assert read(path) == expected
    assert read_table(path, ",").place(2) == "line 4"


def test_text_after_a_closing_quote_is_said(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text('u,i,n\nu,a,"12" vinyl\nu,b,x\n')
    table = read_table(path, ",")
    assert table.frame.collect().rows() == [("u", "a", "12 vinyl"), ("u", "b", "x")]
    assert "in 1 rows (the first: line 2) a field goes on after its closing quote" in table.notes[0]
    assert "--quoting none" in table.notes[0]
    assert read(path, quoted=False)[0] == ("u", "a", '"12" vinyl')


SWALLOWING = 'u,i,n\nu,a,"12 vinyl\nu,b,x\nu,c,"y"\nu,d,z\n'


def test_an_open_quote_that_swallows_rows_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(SWALLOWING)
    with pytest.raises(WeftError, match=r"log\.csv, line 2: a quoted field begins there") as caught:
        read(path)
    assert "--quoting none" in str(caught.value)
    assert read(path, quoted=False) == [
        ("u", "a", '"12 vinyl'), ("u", "b", "x"), ("u", "c", '"y"'), ("u", "d", "z"),
    ]  # fmt: skip


def test_dropping_such_a_row_loses_no_other(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(SWALLOWING + 'u,e,"open\nu,f,w\nu,g,w,w\n')
    table = read_table(path, ",", drop_bad=True)
    assert table.frame.collect().rows() == [("u", "b", "x"), ("u", "c", "y"), ("u", "d", "z"), ("u", "f", "w")]  # fmt: skip
    assert table.bad.count == 3
    assert [one.split(": ")[0].rpartition("/")[2] for one in table.bad.first] == [
        "log.csv, line 2", "log.csv, line 6", "log.csv, line 8",
    ]  # fmt: skip
    assert [table.place(row) for row in range(4)] == ["line 3", "line 4", "line 5", "line 7"]


def test_old_line_ends_and_zero_bytes_are_read(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(b"u,i\rann,a\rbob,b\0\r")
    assert read(path) == [("ann", "a"), ("bob", "b\0")]


def test_a_quoted_field_that_holds_whole_rows_is_said(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text('u,i,n\nu,z,"two\nlines"\nu,a,"12 vinyl\nu,b,x\nu,c,vinyl 14"\n')
    table = read_table(path, ",")
    assert table.frame.collect().height == 2
    assert (
        "1 quoted fields (the first: line 4) run over lines that look like rows" in table.notes[0]
    )
