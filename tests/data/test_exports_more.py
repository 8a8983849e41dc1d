"""Odd rows, encodings and columns of exported logs: the right answer, or the right remedy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from weft.data.domain import Domain
from weft.data.filters import Filters
from weft.data.folder import load_domain
from weft.data.ingest import IngestReport, ingest
from weft.data.source import Source
from weft.data.time_checks import likely_unit
from weft.errors import WeftError
from weft.settings import validate

START = 1_388_534_400
HEADER = "user_id,item_id,timestamp,title\n"


def ingested(tmp_path: Path, content: str | bytes, **fields: Any) -> tuple[IngestReport, Domain]:
    log = tmp_path / fields.pop("name", "log.csv")
    log.write_bytes(content if isinstance(content, bytes) else content.encode())
    source = Source(interactions=log, **fields)
    report = ingest(source, tmp_path / "out", name="x", replace=(tmp_path / "out").exists())
    return report, load_domain(tmp_path / "out")


def refused(tmp_path: Path, content: str | bytes, **fields: Any) -> str:
    with pytest.raises(WeftError) as error:
        ingested(tmp_path, content, **fields)
    return str(error.value)


def test_a_row_that_is_no_list_among_lists_is_a_bad_row(tmp_path: Path) -> None:
    text = "user_id,item_id\nu,\"['a', 'b']\"\nv,\"['c'\"\nw,\"['a']\"\n"
    fields = {"time_unit": "order", "untitled": True}
    assert "is no list, but other rows have lists" in refused(tmp_path, text, **fields)
    report, domain = ingested(tmp_path, text, bad_rows="drop", **fields)
    assert report.bad_rows.count == 1 and "is no list" in report.bad_rows.first[0]
    assert domain.sequences.user_ids.to_list() == ["u", "w"]


def test_a_title_that_is_an_object_is_refused_or_left_out(tmp_path: Path) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text('{"item_id": "a", "title": {"en": "A"}}\n{"item_id": "b", "title": "B"}\n')
    text = f"user_id,item_id,timestamp\nu,b,{START}\n"
    assert "field 'title' = {'en': 'A'} is no title" in refused(tmp_path, text, items=items)
    _, domain = ingested(tmp_path, text, items=items, bad_rows="drop")
    assert domain.items.frame["title"].to_list() == ["B"]
    own = f'{{"user_id": "u", "item_id": "a", "timestamp": {START}, "title": {{"en": "A"}}}}\n'
    assert "field 'title' = {'en': 'A'} is no title" in refused(tmp_path, own, name="log.jsonl")


def test_swapped_columns_of_users_and_items_are_guessed(tmp_path: Path) -> None:
    items = tmp_path / "items.csv"
    items.write_text("item_id,title\na,A\nb,B\n")
    message = refused(
        tmp_path, f"item_id,user_id,timestamp\nu,a,{START}\nv,b,{START}\n", items=items
    )
    assert "are columns 'user_id' and 'item_id' swapped?" in message


def test_what_windows_wrote_is_not_read_as_latin_1(tmp_path: Path) -> None:
    text = (HEADER + f"u,a,{START},It’s 5 €\n").encode("cp1252")
    assert "line 2: latin-1 has no character for the byte 92" in refused(
        tmp_path, text, encoding="latin-1"
    )
    _, domain = ingested(tmp_path, text, encoding="cp1252")
    assert domain.items.frame["title"].to_list() == ["It’s 5 €"]


def test_separators_at_the_end_of_rows_are_no_fields(tmp_path: Path) -> None:
    _, domain = ingested(tmp_path, HEADER + f"u,a,{START},A,\nu,b,{START},B,,\n")
    assert domain.items.frame["title"].to_list() == ["A", "B"]
    assert "5 fields, but the first line has 4" in refused(tmp_path, HEADER + f"u,a,{START},A,x\n")


def test_ids_that_differ_in_an_invisible_character_are_said(tmp_path: Path) -> None:
    report, _ = ingested(tmp_path, HEADER + f"\ufeffu,a,{START},A\nu,b,{START},B\n")
    assert any("invisible characters alone" in note for note in report.notes)


def test_a_zone_by_name_is_no_reason_to_name_the_unit_again(tmp_path: Path) -> None:
    text = HEADER + "u,a,2014-01-01 10:00:00 EST,A\nu,b,2014-01-01,B\n"
    message = refused(tmp_path, text)
    assert "a zone is written Z, UTC or +02:00" in message and "--time-unit iso" not in message


def test_times_cut_before_they_were_written_are_said(tmp_path: Path) -> None:
    cut = HEADER + "u,a,1388530000,A\nu,b,1388540000,B\n"
    assert any("last digits cut" in note for note in ingested(tmp_path, cut)[0].notes)
    days = HEADER + f"u,a,{START},A\nu,b,{START + 86_400},B\n"
    (tmp_path / "days").mkdir()
    assert ingested(tmp_path / "days", days)[0].notes == ()


def test_ticks_of_dot_net_are_not_taken_for_nanoseconds() -> None:
    assert likely_unit(635_241_312_000_000_000) == ""
    assert likely_unit(START * 10**9) == "ns"


def test_a_window_that_is_no_date_is_refused_in_words() -> None:
    with pytest.raises(WeftError, match="time_from: '2014-13-01' is no date"):
        validate(Filters, {"time_from": "2014-13-01"})


@pytest.mark.parametrize(
    ("cell", "fields"),
    [
        ("2014-01-01 00:00:00", {}),
        ("01/01/2014 12:00:00 AM", {"time_format": "%m/%d/%Y %I:%M:%S %p"}),
    ],
)
def test_one_written_time_counts_for_a_list_that_spaces_separate(
    tmp_path: Path, cell: str, fields: dict[str, Any]
) -> None:
    text = f"user_id,item_id,timestamp\nu,a b,{cell}\nv,c,{cell}\n"
    _, domain = ingested(tmp_path, text, list_separator="space", untitled=True, **fields)
    assert domain.sequences.time.tolist() == [START] * 3


def test_items_known_by_their_titles_are_no_lists(tmp_path: Path) -> None:
    text = "1,Dark Souls,purchase\n2,Half Life,play\n"
    names = {"user_id": "1", "item_id": "2", "title": "2"}
    report, _ = ingested(tmp_path, text, header=False, columns=names, time_unit="order")
    assert report.notes == ()


@pytest.mark.parametrize("value", ["1388534400000", 1388534400000, -1])
def test_a_window_in_another_unit_is_refused(value: Any) -> None:
    with pytest.raises(WeftError, match=r"time_until: .* is no Unix time in seconds"):
        validate(Filters, {"time_until": value})


def test_a_pipe_in_place_of_a_log_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log.csv")
    with pytest.raises(WeftError, match=r"log\.csv is no regular file"):
        ingest(Source(interactions=tmp_path / "log.csv"), tmp_path / "out")
