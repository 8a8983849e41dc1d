"""Logs as other programs export them: what is lost or doubled in them is refused, or said."""

from __future__ import annotations

import zipfile
from pathlib import Path

import polars as pl
import pytest

from weft.data.folder import load_domain
from weft.data.ingest import IngestReport, ingest
from weft.data.source import Source
from weft.errors import WeftError

HEADER = "user_id,item_id,timestamp,title\n"
START = 1_388_534_400


def ingested(tmp_path: Path, content: str | bytes, name: str = "log.csv", **fields: object):
    log = tmp_path / name
    log.write_bytes(content if isinstance(content, bytes) else content.encode())
    report = ingest(Source(interactions=log, **fields), tmp_path / "out", name="x")
    return report, load_domain(tmp_path / "out")


def refused(tmp_path: Path, content: str | bytes, name: str = "log.csv", **fields: object) -> str:
    with pytest.raises(WeftError) as error:
        ingested(tmp_path, content, name, **fields)
    assert not (tmp_path / "out").exists()
    return str(error.value)


def rows(*cells: str) -> str:
    return HEADER + "".join(f"{one}\n" for one in cells)


@pytest.mark.parametrize("word", ["nan", "NaN", "NULL", "null", "None", "\\N", "<NA>", "N/A"])
@pytest.mark.parametrize("column", ["user_id", "item_id"])
def test_a_word_for_a_missing_value_is_no_id(tmp_path: Path, word: str, column: str) -> None:
    bad = f"{word},a,{START},A" if column == "user_id" else f"u,{word},{START},A"
    text = rows(f"u,a,{START},A", bad, f"v,b,{START},B")
    message = refused(tmp_path, text)
    assert f"line 3: column '{column}' = {word!r}, which is how programs write" in message
    report, domain = ingested(tmp_path, text, bad_rows="drop")
    assert report.bad_rows.count == 1
    assert domain.sequences.user_ids.to_list() == ["u", "v"]
    assert domain.items.frame["item_id"].to_list() == ["a", "b"]


def test_titles_called_nan_are_missing_unless_one_item_is_called_so(tmp_path: Path) -> None:
    text = rows(f"u,a,{START},A", f"u,b,{START},nan", f"u,c,{START},nan")
    report, domain = ingested(tmp_path, text)
    assert domain.items.frame["title"].to_list() == ["A", "", ""]
    assert any("2 items have 'nan'" in note for note in report.notes)
    assert "no item has a title" in refused(
        tmp_path / "..", rows(f"u,b,{START},nan", f"u,c,{START},nan")
    )


def test_a_single_item_may_be_called_none(tmp_path: Path) -> None:
    _, domain = ingested(tmp_path, rows(f"u,a,{START},A", f"u,b,{START},None"))
    assert domain.items.frame["title"].to_list() == ["A", "None"]


@pytest.mark.parametrize("header", [True, False])
def test_a_header_among_the_rows_is_no_interaction(tmp_path: Path, header: bool) -> None:
    names = {} if header else {"user_id": "1", "item_id": "2", "title": "3"}
    text = "user_id,item_id,title\nu,a,A\nuser_id,item_id,title\nv,b,B\n"
    message = refused(tmp_path, text, header=header, columns=names, time_unit="order")
    assert "this is a header, not a row" in message
    _, domain = ingested(
        tmp_path, text, header=header, columns=names, time_unit="order", bad_rows="drop"
    )
    assert domain.sequences.user_ids.to_list() == ["u", "v"]


@pytest.mark.parametrize(
    "cells", [("1.38853E+09", "1.38854E+09"), ("1.388534e+09", "1.388535e+09")]
)
def test_times_with_too_few_digits_are_refused(tmp_path: Path, cells: tuple[str, str]) -> None:
    message = refused(tmp_path, rows(f"u,b,{cells[0]},B", f"u,a,{cells[1]},A"))
    assert f"column 'timestamp' = {cells[0]} is written with too few digits" in message


def test_whole_times_with_an_exponent_are_read(tmp_path: Path) -> None:
    _, domain = ingested(tmp_path, rows("u,b,1.388534490e+09,B", "u,a,1.388534410e+09,A"))
    assert domain.sequences.time.tolist() == [1388534410, 1388534490]
    days = rows("u,b,1.3886208e+09,B", "u,a,1.3885344e+09,A")
    assert ingested(tmp_path / "..", days, name="days.csv")[1].sequences.time.tolist() == [
        1388534400,
        1388620800,
    ]


def test_times_in_floats_of_32_bits_are_refused(tmp_path: Path) -> None:
    log = tmp_path / "log.parquet"
    times = pl.Series([START + 90, START + 10], dtype=pl.Float32)
    columns = {"user_id": ["u", "u"], "item_id": ["b", "a"], "title": ["B", "A"]}
    pl.DataFrame({**columns, "timestamp": times}).write_parquet(log)
    with pytest.raises(WeftError, match="a float of 32 bits, which keeps 7 digits"):
        ingest(Source(interactions=log), tmp_path / "out")
    numbers = pl.Series([2, 1], dtype=pl.Float32)  # an order: every digit is there
    pl.DataFrame({**columns, "timestamp": numbers}).write_parquet(log)
    assert isinstance(ingest(Source(interactions=log), tmp_path / "out"), IngestReport)


def test_ids_that_differ_in_spaces_are_said(tmp_path: Path) -> None:
    report, _ = ingested(tmp_path, rows(f"u,a,{START},A", f"u ,b,{START},B"))
    assert any("1 of 2 ids of column 'user_id' differ" in note for note in report.notes)


def test_a_header_with_spaces_after_its_commas(tmp_path: Path) -> None:
    text = f"user_id, item_id, timestamp, title\nu, b, {START + 1}, B\nu, a, {START}, A\n"
    _, domain = ingested(tmp_path, text)
    assert domain.items.frame["item_id"].to_list() == ["b", "a"]
    assert domain.items.frame["title"].to_list() == ["B", "A"]


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    text = f"user_id,item_id,item_id,timestamp,title\nu,a,b,{START},A\n"
    assert "its header has 'item_id' twice" in refused(tmp_path, text)


def test_the_line_sep_of_excel_is_no_row(tmp_path: Path) -> None:
    text = "sep=;\r\n" + rows(f"u,a,{START},A", "v,b,x,B").replace(",", ";")
    assert "line 4: column 'timestamp' = 'x'" in refused(tmp_path, text, separator=";")


def test_columns_beside_a_headerless_order_are_said(tmp_path: Path) -> None:
    report, _ = ingested(
        tmp_path, "1,10,11,12\n2,10,13,14\n", header=False, time_unit="order", untitled=True,
        columns={"user_id": "1", "item_id": "2"},
    )  # fmt: skip
    assert any("3, 4 are not read" in note for note in report.notes)


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("[['a', 1], ['b', 2]]", "holds lists in a list"),
        ("frozenset({'a', 'b'})", "is a Python object in text"),
        ("array(['a', 'b'], dtype=object)", "is a Python object in text"),
    ],
)
def test_what_is_no_plain_list_is_refused(tmp_path: Path, cell: str, words: str) -> None:
    text = f'user_id,item_id\nu,"{cell}"\n'
    assert words in refused(tmp_path, text, time_unit="order", untitled=True)


def test_lists_that_were_filled_up_are_said(tmp_path: Path) -> None:
    text = 'user_id,item_id\nu,"[0, 0, 5]"\nv,"[0, 6, 7]"\n'
    report, _ = ingested(tmp_path, text, time_unit="order", untitled=True)
    assert any("begin or end with several '0'" in note for note in report.notes)


@pytest.mark.parametrize(
    ("wanted", "there"), [("5019281", "0005019281"), ("b00a", "B00A"), ("7", "7 ")]
)
def test_an_id_that_the_catalogue_writes_otherwise(tmp_path: Path, wanted: str, there: str) -> None:
    items = tmp_path / "items.csv"
    items.write_text(f"item_id,title\n{there},A\n")
    message = refused(tmp_path, f"user_id,item_id,timestamp\nu,{wanted},{START}\n", items=items)
    assert f"the catalogue writes it {there!r}" in message


def test_the_likely_column_is_named(tmp_path: Path) -> None:
    text = f"userId,movieId,timestamp,title\n1,2,{START},A\n"
    assert "--column user_id=userId" in refused(tmp_path, text)
    assert "--column item_id=movieId" in refused(tmp_path, text, columns={"user_id": "userId"})


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"SQLite format 3\0", "an SQLite database"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\x80\x04\x95", "a Python pickle, which weft never reads"),
    ],
)
def test_what_is_no_table_is_named(tmp_path: Path, head: bytes, words: str) -> None:
    assert words in refused(tmp_path, head + b" " * 80)
    assert words in refused(tmp_path, head + b" " * 80, name="log.data")


def test_a_workbook_and_an_archive_are_named(tmp_path: Path) -> None:
    for member, words in (("xl/workbook.xml", "an Excel workbook"), ("log.csv", "a zip archive")):
        log = tmp_path / "log.csv"
        with zipfile.ZipFile(log, "w") as archive:
            archive.writestr(member, HEADER)
        with pytest.raises(WeftError, match=words):
            ingest(Source(interactions=log), tmp_path / "out")


def test_json_of_columns_is_refused_with_the_form_that_is_read(tmp_path: Path) -> None:
    text = '{"user_id": {"0": "u"}, "item_id": {"0": "a"}}'
    assert "pandas: orient='records'" in refused(tmp_path, text, name="log.json")


@pytest.mark.parametrize("time_format", ["%d/%m/%Y %H:%M %p", "%d/%m/%Y %I:%M"])
def test_a_clock_of_twelve_hours_needs_its_half(tmp_path: Path, time_format: str) -> None:
    message = refused(tmp_path, rows("u,a,12/1/2010 8:26 PM,A"), time_format=time_format)
    assert "hours up to 12 are %I with %p" in message
