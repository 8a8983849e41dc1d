"""Rows that are lists of items become one row an interaction, or are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from data_logs import T0, as_dict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weft.data.ingest import read_domain
from weft.data.source import Source
from weft.errors import WeftError
from weft.settings import validate

EXPECTED = {"u": [("B1", 0), ("B2", 1), ("B1", 2)], "v": [("B3", 0)]}


def read(path: Path, **options: Any) -> Any:
    settings = {"interactions": path, "untitled": True, **options}
    return as_dict(read_domain(validate(Source, settings))[0])


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(WeftError) as caught:
        read(path, **options)
    return str(caught.value).replace(f"{path.parent}/", "")


def csv_of(path: Path, *cells: str) -> Path:
    rows = "".join(f"{user},{cell}\n" for user, cell in zip("uvwxyz", cells, strict=False))
    path.write_text("user_id,item_id\n" + rows)
    return path


@pytest.mark.parametrize(
    "cells",
    [
        ("\"['B1', 'B2', 'B1']\"", "\"['B3']\""), ('"[""B1"", ""B2"", ""B1""]"', '"[""B3""]"'),
        ("\"('B1', 'B2', 'B1')\"", "\"('B3',)\""), ('"[B1, B2, B1]"', "[B3]"),
        ("['B1' 'B2' 'B1']", "['B3']"), ('"[ B1 B2\n B1 ]"', "[B3]"),
    ],
)  # fmt: skip
def test_lists_in_a_cell(tmp_path: Path, cells: tuple[str, str]) -> None:
    path = csv_of(tmp_path / "log.csv", *cells)
    assert read(path, time_unit="order") == EXPECTED
    settings = Source(interactions=path, time_unit="order", untitled=True)
    note = read_domain(settings)[2].notes[0]
    assert "holds lists of items, read as sequences: 2 rows, 4 interactions" in note


ITEMS = st.lists(st.text("ab,' []\"é", min_size=1, max_size=4), max_size=4)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(users=st.lists(ITEMS, min_size=1, max_size=4), form=st.sampled_from(["json", "python", "parquet", "jsonl"]))  # fmt: skip
def test_any_list_comes_back_in_its_order(
    tmp_path: Path, users: list[list[str]], form: str
) -> None:
    names = [f"u{n}" for n in range(len(users))]
    expected = {
        name: [(item, place) for place, item in enumerate(items)]
        for name, items in zip(names, users, strict=True)
        if items
    }
    if not expected:
        return
    path = tmp_path / "log.csv"
    if form == "parquet":
        path = tmp_path / "log.parquet"
        frame = pl.DataFrame({"user_id": names, "item_id": pl.Series(users, dtype=pl.List(pl.String))})  # fmt: skip
        frame.write_parquet(path)
    elif form == "jsonl":
        path = tmp_path / "log.jsonl"
        rows = [{"user_id": n, "item_id": i} for n, i in zip(names, users, strict=True)]
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        write = json.dumps if form == "json" else repr
        pl.DataFrame({"user_id": names, "item_id": [write(items) for items in users]}).write_csv(path)  # fmt: skip
    assert read(path, time_unit="order") == expected


def test_lists_of_times_go_along(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    rows = [
        {"user_id": 1, "item_id": [5, 6, 7], "timestamp": [T0 + 9, T0, T0 + 5]},
        {"user_id": 2, "item_id": [5], "timestamp": [T0]},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert read(path) == {
        "1": [("6", T0), ("7", T0 + 5), ("5", T0 + 9)],
        "2": [("5", T0)],
    }
    rows[0]["timestamp"] = [T0, T0 + 1]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert refused(path).startswith(
        "log.jsonl, line 1: column 'timestamp' has 2 values for the 3 items of column 'item_id'"
    )


def test_bad_lists_are_dropped_if_asked(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(
        f'user_id,item_id,timestamp\nu,"[1, 2]","[{T0}, {T0 + 1}]"\nv,"[1, 2]",[{T0}]\nw,,[{T0}]\n'
    )
    assert "line 3: column 'timestamp' has 1 values for the 2 items" in refused(path)
    assert read(path, bad_rows="drop") == {"u": [("1", T0), ("2", T0 + 1)]}
    settings = Source(interactions=path, bad_rows="drop", untitled=True)
    assert read_domain(settings)[1].bad_rows == 2


def test_one_time_counts_for_the_whole_list_and_ratings_go_along(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(
        f'user_id,item_id,timestamp,rating\nu,"[1, 2, 3]",{T0},"[5, 1, 4]"\nv,[2],{T0},[5]\n'
    )
    assert read(path, minimum_rating=4) == {"u": [("1", T0), ("3", T0)], "v": [("2", T0)]}


def test_recbole_sequences(tmp_path: Path) -> None:
    path = tmp_path / "x.inter"
    path.write_text(
        "user_id:token\titem_id_list:token_seq\ttimestamp_list:float_seq\n"
        f"u\tB1 B2 B1\t{T0} {T0 + 1} {T0 + 2}\nv\tB3\t{T0}\n"
    )
    expected = {user: [(item, T0 + n) for item, n in events] for user, events in EXPECTED.items()}
    assert read(path) == expected
    (tmp_path / "x.item").write_text(
        "item_id:token\ttitle:token_seq\nB1\tOne\nB2\tTwo\nB3\tThree\n"
    )
    assert read(path) == expected
    path.write_text("user_id:token\titem_id:token_seq\nu\tB1 B2 B1\nv\tB3\n")
    assert read(path, time_unit="order") == EXPECTED
    assert "there is no column 'timestamp'" in refused(path)
    assert "--time-unit order" in refused(path)


def test_recbole_s_target_is_the_last_item(tmp_path: Path) -> None:
    path = tmp_path / "x.inter"
    header = "session_id:token\titem_id_list:token_seq\titem_id:token\n"
    path.write_text(header + "u\tB1 B2\tB1\nv\t\tB3\n")
    columns = {"user_id": "session_id"}
    assert read(path, time_unit="order", columns=columns) == EXPECTED
    path.write_text(header + "u\tB1\tB2\nu\tB1 B2\tB3\nu\tB1 B2 B3\tB4\n")
    message = refused(path, time_unit="order", columns=columns)
    assert "line 3: column 'item_id' goes on from the list of line 2 for the same user" in message


def test_several_rows_of_a_user_that_are_sessions_are_joined(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(f'user_id,item_id,timestamp\nu,"[3, 4]",{T0 + 9}\nu,"[1, 2]",{T0}\n')
    assert read(path) == {"u": [("1", T0), ("2", T0), ("3", T0 + 9), ("4", T0 + 9)]}


def test_lists_without_brackets_need_an_option(tmp_path: Path) -> None:
    path = csv_of(tmp_path / "log.csv", "B1 B2 B1", "B3 B4")
    with_spaces = read_domain(Source(interactions=path, time_unit="order", untitled=True))
    assert with_spaces[0].items.item_ids == ["B1 B2 B1", "B3 B4"]
    assert "look like several ('B1 B2 B1'); lists of items in a cell are read with --list-separator" in with_spaces[2].notes[0]  # fmt: skip
    path = csv_of(tmp_path / "log.csv", "B1 B2 B1", "B3")
    assert read(path, time_unit="order", list_separator="space") == EXPECTED
    path = csv_of(tmp_path / "log.csv", "B1|B2|B1", "B3")
    assert read(path, time_unit="order", list_separator="|") == EXPECTED
    (tmp_path / "items.csv").write_text("item_id,title\nB1,x\nB2,y\nB3,z\n")
    assert "--list-separator" in refused(path, time_unit="order", items=tmp_path / "items.csv")


def test_what_is_half_a_list_is_refused(tmp_path: Path) -> None:
    mixed = csv_of(tmp_path / "log.csv", '"[1, 2]"', "B3")
    assert refused(mixed, time_unit="order").startswith("log.csv, line 3: column 'item_id' = 'B3' is no list, but other rows have lists")  # fmt: skip
    cut = csv_of(tmp_path / "log.csv", "[1 2 3 ... 8 9]", "[4]")
    assert "was cut where it was written" in refused(cut, time_unit="order")
    path = tmp_path / "log.csv"
    path.write_text('user_id,item_id,title\nu,"[1, 2]",One\n')
    assert "column 'title' is one text for 2 items" in refused(path, time_unit="order")
    path.write_text('user_id,item_id\n"[1, 2]","[1, 2]"\n')
    assert "is a list; a row has one user" in refused(path, time_unit="order")


def test_ids_that_begin_with_a_bracket_stay(tmp_path: Path) -> None:
    path = csv_of(tmp_path / "log.csv", "[Blu-ray] x", "y")
    assert read(path, time_unit="order") == {"u": [("[Blu-ray] x", 0)], "v": [("y", 0)]}
