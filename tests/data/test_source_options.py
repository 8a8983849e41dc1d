"""Separators, encodings, ids and files of other formats: options, and messages that name them."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from data_logs import T0, as_dict, notes, refused
from typer.testing import CliRunner

from weft.cli.data import app
from weft.cli.data_ingest import ingest_command as command
from weft.data.filters import Filters
from weft.data.ingest import read_domain
from weft.data.source import Source
from weft.settings import validate

EXPECTED = {"u": [("a", T0), ("b", T0 + 1)]}


def read(path: Path, **options: Any) -> Any:
    return read_domain(validate(Source, {"interactions": path, **options}))[0]


def log(path: Path, mark: str = ",", title: str = "Title", encoding: str = "utf-8") -> Path:
    rows = [["user_id", "item_id", "timestamp", "title"], ["u", "b", str(T0 + 1), title], ["u", "a", str(T0), "A"]]  # fmt: skip
    path.write_bytes("\n".join(mark.join(row) for row in rows).encode(encoding))
    return path


def test_every_setting_and_every_filter_is_an_option() -> None:
    options = set(inspect.signature(command).parameters)
    renamed = {"interactions": "source", "columns": "column", "item_columns": "item_column"}
    assert {renamed.get(name, name) for name in Source.model_fields} <= options
    assert set(Filters.model_fields) <= options


def test_distinct_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(f"user_id,item_id,timestamp,title\nu,a,{T0},A\nu,a,{T0 + 1},A\nu,b,{T0},B\n")
    arguments = ["ingest", str(path), str(tmp_path / "out"), "--distinct", "--json"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    report = json.loads(done.stdout)
    assert report["written"]["interactions"] == 2
    assert report["removed"][0]["step"] == "distinct"


@pytest.mark.parametrize(("mark", "option"), [(";", "';'"), ("\t", "tab"), ("|", "'|'")])
def test_another_separator_is_named_and_read(tmp_path: Path, mark: str, option: str) -> None:
    path = log(tmp_path / "log.csv", mark, title="3,5 cm, red")
    message = refused(path)
    assert message == f"log.csv: the first line has no ',' but 3 of {option}; read it with --separator {option}"  # fmt: skip
    domain = read(path, separator=option.strip("'"))
    assert as_dict(domain) == EXPECTED
    assert domain.items.titles == ["3,5 cm, red", "A"]
    assert "--separator ','" in refused(log(tmp_path / "log.tsv"))


def test_log_and_items_may_have_different_separators(tmp_path: Path) -> None:
    items = tmp_path / "items.csv"
    for log_mark, items_mark in ((";", ","), (",", ";")):
        path = log(tmp_path / "log.csv", log_mark)
        items.write_text(f"item_id{items_mark}title\na{items_mark}One\nb{items_mark}Two\n")
        assert read(path, items=items, separator=";").items.titles == ["One", "Two"]


def test_a_separator_is_one_character(tmp_path: Path) -> None:
    for wrong in ("::", "", '"', "é"):
        assert "is not one character" in refused(log(tmp_path / "log.csv"), separator=wrong)
    assert "takes no 'separator'" in refused(log(tmp_path / "log.jsonl"), separator=";")


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16"])
def test_another_encoding_is_named_and_read(tmp_path: Path, encoding: str) -> None:
    path = log(tmp_path / "log.csv", title="Café", encoding=encoding)
    option = "utf-16" if encoding == "utf-16" else "latin-1"
    assert f"--encoding {option}" in refused(path)
    assert read(path, encoding=encoding).items.titles == ["Café", "A"]
    record = {"user_id": "u", "item_id": "a", "timestamp": T0, "title": "Café"}
    lines = json.dumps(record, ensure_ascii=False) + "\n"
    (tmp_path / "log.jsonl").write_bytes(lines.encode(encoding))
    assert f"--encoding {option}" in refused(tmp_path / "log.jsonl")
    assert read(tmp_path / "log.jsonl", encoding=encoding).items.titles == ["Café"]


def test_utf8_is_never_read_as_something_else(tmp_path: Path) -> None:
    path = log(tmp_path / "log.csv", title="Café")
    assert read(path, encoding="latin-1").items.titles == ["Café", "A"]
    assert "is read as UTF-8, which it is, and not as latin-1" in notes(path, encoding="latin-1")[0]


@pytest.mark.parametrize("encoding", ["klingon", "rot13", "hex", "undefined"])
def test_an_encoding_that_there_is_not(tmp_path: Path, encoding: str) -> None:
    assert f"there is no text encoding '{encoding}'" in refused(log(tmp_path / "log.csv"), encoding=encoding)  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "meant"),
    [
        ({"user": "x"}, "user_id=x"), ({"titel": "x"}, "title=x"), ({"item": "x"}, "item_id=x"),
        ({"timestmap": "x"}, "timestamp=x"), ({"time": "x"}, "timestamp=x"), ({"userid": "x"}, "user_id=x"),
        ({"Rating": "x"}, "rating=x"), ({"titles": "x"}, "title=x"), ({"name": "x"}, "title=x"),
    ],
)  # fmt: skip
def test_a_slip_in_weft_s_name_is_refused(
    tmp_path: Path, columns: dict[str, str], meant: str
) -> None:
    message = refused(log(tmp_path / "log.csv"), columns=columns)
    assert f"did you mean '{meant}'?" in message
    assert "user_id, item_id, timestamp, rating, title" in message


def test_slips_for_the_items_file(tmp_path: Path) -> None:
    path, items = log(tmp_path / "log.csv"), tmp_path / "items.csv"
    items.write_text("item_id,title\na,A\nb,B\n")
    assert "did you mean 'title=title'?" in refused(path, items=items, item_columns={"titel": "title"})  # fmt: skip
    assert "item_columns maps 'user_id'" in refused(path, items=items, item_columns={"user_id": "title"})  # fmt: skip
    for name in ("brand", "subtitle", "category", "year"):  # texts of the item
        domain = read(
            path,
            items=items,
            item_columns={"title": "title", name: "item_id", "item_id": "item_id"},
        )
        assert name in domain.items.frame.columns


def test_a_column_mapped_twice_is_refused(tmp_path: Path) -> None:
    arguments = ["ingest", str(log(tmp_path / "log.csv")), str(tmp_path / "out")]
    arguments += ["--column", "title=title", "--column", "title=user_id"]
    done = CliRunner().invoke(app, arguments)
    assert "'title' is mapped twice: to 'title' and to 'user_id'" in str(done.exception)


def test_float_ids_that_are_whole_numbers(tmp_path: Path) -> None:
    path, items = tmp_path / "log.csv", tmp_path / "items.csv"
    path.write_text(f"user_id,item_id,timestamp\n7.0,12345.0,{T0}\n8,9.0,{T0}\n")
    items.write_text("item_id,title\n12345,One\n9,Two\n")
    domain = read(path, items=items)
    assert as_dict(domain) == {"7": [("12345", T0)], "8": [("9", T0)]}
    assert "the ids of column 'user_id' are written like 12345.0; they are read as 12345" in "".join(notes(path, items=items))  # fmt: skip
    items.write_text("item_id,title\n12345.0,One\n9.0,Two\n10,Three\n")
    assert read(path, items=items).items.item_ids == ["12345", "9", "10"]
    items.write_text("item_id,title\n12345.0,One\n9.0,Two\n9.1,Three\n")  # versions, not numbers
    assert read(path, items=items).items.item_ids == ["12345.0", "9.0", "9.1"]
    path.write_text(f"user_id,item_id,timestamp\n7.0,1.10,{T0}\nx,1.1,{T0}\n")
    assert as_dict(read(path, untitled=True)) == {"7.0": [("1.10", T0)], "x": [("1.1", T0)]}


def test_float_ids_of_parquet_and_json(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user_id": [1.0, 2.0], "item_id": ["a", "b"], "timestamp": [T0, T0]})
    frame.write_parquet(tmp_path / "log.parquet")
    assert list(as_dict(read(tmp_path / "log.parquet", untitled=True))) == ["1", "2"]
    frame.with_columns(user_id=pl.Series([1.0, 2.5])).write_parquet(tmp_path / "log.parquet")
    assert "row 2: column 'user_id' holds Float64" in refused(
        tmp_path / "log.parquet", untitled=True
    )
    frame.with_columns(user_id=pl.Series([1.0, 2.0**60])).write_parquet(tmp_path / "log.parquet")
    assert "is no float below" in refused(tmp_path / "log.parquet", untitled=True)
    record = {"user_id": 12345.0, "item_id": 1, "timestamp": T0}
    (tmp_path / "log.jsonl").write_text(json.dumps(record))
    assert as_dict(read(tmp_path / "log.jsonl", untitled=True)) == {"12345": [("1", T0)]}


def test_ids_that_a_spreadsheet_has_cut_are_said(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(f"user_id,item_id,timestamp,title\nu,1.23457E+12,{T0},A\n")
    assert "a spreadsheet has cut their digits" in notes(path)[0]


def test_a_json_array(tmp_path: Path) -> None:
    records = [
        {"user_id": "u", "item_id": i, "timestamp": T0 + n, "title": i} for n, i in enumerate("ab")
    ]
    path = tmp_path / "log.json"
    for indent in (None, 2):
        path.write_text(json.dumps(records, indent=indent))
        assert as_dict(read(path)) == EXPECTED
    path.write_text("\n".join(map(json.dumps, records)))  # lines, in spite of the name
    assert as_dict(read(path)) == EXPECTED
    path.write_text(json.dumps([*records, {"user_id": "u"}]))
    assert refused(path).startswith("log.json, entry 3: there is no field 'item_id'")
    path.write_text(json.dumps(records)[:-5])
    assert "nor a whole JSON array of them" in refused(path)


def test_a_catalogue_in_another_format_than_the_log(tmp_path: Path) -> None:
    titles = pl.DataFrame({"item_id": ["a", "b"], "title": ["One", "Two"]})
    titles.write_ndjson(tmp_path / "items.jsonl")
    titles.write_parquet(tmp_path / "items.parquet")
    titles.write_csv(tmp_path / "items.csv")
    titles.write_csv(tmp_path / "items.tsv", separator="\t")
    (tmp_path / "items.json").write_text(json.dumps(titles.to_dicts()))
    record = [{"user_id": "u", "item_id": i, "timestamp": T0 + n} for n, i in enumerate("ab")]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, record)))
    pl.DataFrame(record).write_parquet(tmp_path / "log.parquet")
    pl.DataFrame(record).write_csv(tmp_path / "log.csv")
    inter = "user_id:token\titem_id:token\ttimestamp:float\n"
    (tmp_path / "log.inter").write_text(inter + f"u\ta\t{T0}\nu\tb\t{T0 + 1}\n")
    for name in ("log.csv", "log.jsonl", "log.parquet", "log.inter"):
        for suffix in ("csv", "tsv", "json", "jsonl", "parquet"):
            domain = read(tmp_path / name, items=tmp_path / f"items.{suffix}")
            assert as_dict(domain) == EXPECTED, (name, suffix)
            assert domain.items.titles == ["One", "Two"]


@pytest.mark.parametrize("mark", ["\t", ",", " "])
def test_recbole_files_with_other_separators(tmp_path: Path, mark: str) -> None:
    header = ["user_id:token", "item_id:token", "timestamp:float"]
    rows = [header, ["u", "b", f"{T0 + 1}"], ["u", "a", f"{T0}"]]
    path = tmp_path / "x.inter"
    path.write_text("\n".join(mark.join(row) for row in rows))
    (tmp_path / "x.item").write_text("item_id:token,title:token\na,One\nb,Two\n")
    assert as_dict(read(path)) == EXPECTED
    path.write_text("user_id:token item_id_list:token_seq\nu a b\n")
    assert "separate the columns by tabs" in refused(path, time_unit="order")


def test_quotes_as_characters(tmp_path: Path) -> None:
    path = log(tmp_path / "log.csv", title='"12" vinyl')
    assert read(path).items.titles == ["12 vinyl", "A"]
    assert read(path, quoting="none").items.titles == ['"12" vinyl', "A"]
