"""Bad rows stop an ingest, or are dropped and counted; what a filter leaves out is no complaint."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from data_logs import T0, as_dict
from typer.testing import CliRunner

from weft.cli.data import app
from weft.data.filters import Filters
from weft.data.ingest import IngestReport, ingest, read_domain
from weft.data.source import Source
from weft.errors import WeftError
from weft.settings import validate

DOT_NET = -62_135_596_800_000  # what .NET writes for "no time", in milliseconds


def run(path: Path, filters: dict[str, Any] | None = None, **options: Any) -> IngestReport:
    settings = {"interactions": path, "untitled": True, **options}
    out = path.with_name("out")
    return ingest(
        validate(Source, settings), out, filters=validate(Filters, filters or {}), replace=True
    )


def refused(path: Path, filters: dict[str, Any] | None = None, **options: Any) -> str:
    with pytest.raises(WeftError) as caught:
        run(path, filters, **options)
    return str(caught.value).replace(f"{path.parent}/", "")


def write(path: Path, *rows: str, header: str = "user_id,item_id,timestamp,rating") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_the_message_names_the_option_and_the_count(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", f"u,a,{T0},5", f"u,b,{DOT_NET},5", f",c,{T0},5")
    assert refused(path) == (
        f"log.csv, line 3: column 'timestamp' = '{DOT_NET}' is a time before 1970;"
        " --bad-rows drop leaves the 2 bad rows out"
    )


def test_dropped_rows_are_counted_and_the_first_three_named(tmp_path: Path) -> None:
    path = write(
        tmp_path / "log.csv",
        f"u,a,{T0},5", f"u,b,{DOT_NET},5", f",c,{T0},5", f"u,,{T0},5", "u,d,,5", "u,e,soon,5",
        f"u,f,{T0 + 1},5",
    )  # fmt: skip
    report = run(path, bad_rows="drop")
    assert report.left.bad_rows == report.bad_rows.count == 5
    first = [one.replace(f"{tmp_path}/", "") for one in report.bad_rows.first]
    assert first == [
        f"log.csv, line 3: column 'timestamp' = '{DOT_NET}' is a time before 1970",
        "log.csv, line 4: column 'user_id' is empty",
        "log.csv, line 5: column 'item_id' is empty",
    ]
    domain = read_domain(Source(interactions=path, bad_rows="drop", untitled=True))[0]
    assert as_dict(domain) == {"u": [("a", T0), ("f", T0 + 1)]}
    assert domain.items.item_ids == ["a", "f"]  # what only bad rows name is no item
    manifest = json.loads((tmp_path / "out" / "domain.json").read_text())
    assert manifest["source"]["left"]["bad_rows"] == 5
    assert manifest["source"]["settings"]["bad_rows"] == "drop"


def test_dropping_equals_reading_the_file_without_them(tmp_path: Path) -> None:
    rng = random.Random(3)
    good = [
        f"u{rng.randrange(9)},i{rng.randrange(9)},{T0 + rng.randrange(99)},3" for _ in range(200)
    ]
    bad = [
        ",i1,5,3",
        "u1,,5,3",
        f"u1,i1,{DOT_NET},3",
        "u1,i1,x,3",
        "u1,i77,,3",
        "u,i,1,2,3,4",
        "new,i1,,3",
    ]
    mixed = [*good]
    for row in bad * 3:
        mixed.insert(rng.randrange(len(mixed)), row)
    clean = run(write(tmp_path / "good.csv", *good))
    dropped = run(write(tmp_path / "bad.csv", *mixed), bad_rows="drop")
    assert dropped.hash == clean.hash
    assert dropped.left.bad_rows == 21


def test_nothing_is_dropped_from_a_log_of_bad_rows_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "u,a,x,5", "u,b,y,5")
    assert "line 2: column 'timestamp' = 'x' is not a time; all rows are bad" in refused(path, bad_rows="drop")  # fmt: skip


@pytest.mark.parametrize(
    ("options", "filters", "kept"),
    [
        ({"minimum_rating": 3}, {}, ["a"]),
        ({"unlisted": "drop"}, {}, ["a"]),
        ({"unlisted": "drop"}, {"titled": True}, ["a"]),
        ({"unlisted": "add"}, {"titled": True}, ["a"]),
        ({"unlisted": "drop"}, {"where": {"title": "A"}}, ["a"]),
    ],
)
def test_rows_that_are_left_out_anyway_are_no_complaint(
    tmp_path: Path, options: dict[str, Any], filters: dict[str, Any], kept: list[str]
) -> None:
    """The bad rows have low ratings, or items that the catalogue lacks or that have no title."""
    items = tmp_path / "items.csv"
    items.write_text("item_id,title\na,A\n" + ("" if "minimum_rating" not in options else "x,X\n"))
    rows = [f"u,a,{T0},5", "u,x,soon,1", f",x,{T0},2", f"u,x,{DOT_NET},"[:-1] + ",1"]
    path = write(tmp_path / "log.csv", *rows)
    report = run(path, filters, items=items, **options)
    assert report.written.interactions == len(kept)
    assert report.left.bad_rows == 0
    if "minimum_rating" in options:
        assert report.left.below_rating == 3
    other = {"items": items, **{k: v for k, v in options.items() if k != "minimum_rating"}}
    if "unlisted" not in options:
        assert "--bad-rows drop" in refused(path, **other)


def test_times_outside_the_window_are_no_complaint(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", f"u,a,{T0 * 1000},5", f"u,b,{DOT_NET},5", "u,c,999999999999999999,5")  # fmt: skip
    window = {"time_from": "2000-01-01", "time_until": "2030-01-01"}
    report = run(path, window, time_unit="ms")
    assert report.written.interactions == 1
    assert (report.left.bad_rows, report.left.filtered_bad_rows) == (0, 2)
    assert "is a time before 1970" in refused(path, time_unit="ms")


def test_ratings_are_needed_only_where_they_select(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", f"u,a,{T0},", f"u,b,{T0},x", f"u,c,{T0},4")
    assert run(path).written.interactions == 3
    message = refused(path, minimum_rating=3)
    assert "line 2: column 'rating' is empty, and --minimum-rating needs it" in message
    assert run(path, minimum_rating=3, bad_rows="drop").left.bad_rows == 2
    comma = write(tmp_path / "log.csv", f'u,a,{T0},"3,5"')
    assert "= '3,5' is not a number (write 3.5, not 3,5)" in refused(comma, minimum_rating=3)


RECORDS: list[Any] = [
    {"user_id": "u", "item_id": "a", "timestamp": T0, "rating": {}},
    {"user_id": None, "item_id": "a", "timestamp": T0},
    {"item_id": "a", "timestamp": T0},
    {"user_id": 7, "item_id": "a", "timestamp": T0},
    {"user_id": "u", "item_id": "a", "timestamp": {}},
    {"user_id": "u", "item_id": "b", "timestamp": T0 + 1},
]


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    lines = [json.dumps(record) for record in RECORDS]
    lines[5:5] = ['{"user_id": "u"', "[1, 2]", '"text"']
    path.write_text("\n".join(lines))
    assert refused(path).startswith("log.jsonl, line 3: there is no field 'user_id'")
    report = run(path, bad_rows="drop")
    assert report.left.bad_rows == 7
    assert report.written.interactions == 2
    domain = read_domain(Source(interactions=path, bad_rows="drop", untitled=True))[0]
    assert as_dict(domain) == {"u": [("a", T0), ("b", T0 + 1)]}
    path.write_bytes(b'{"user_id": "\xff"}\n' + json.dumps(RECORDS[0]).encode())
    assert run(path, bad_rows="drop").bad_rows.first[0].endswith("line 1: not UTF-8 text")


def test_amazon_2023_with_the_time_that_its_official_file_has(tmp_path: Path) -> None:
    path, meta = tmp_path / "r.jsonl", tmp_path / "m.jsonl"
    rows = [
        {"user_id": "u", "parent_asin": "a", "timestamp": time, "rating": 5.0}
        for time in (T0 * 1000, DOT_NET)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    meta.write_text('{"parent_asin": "a", "title": "A"}\n{"title": "no id"}\n{"parent_asin": "a"}')
    options = {"format": "amazon-2023", "items": meta}
    assert "--bad-rows drop" in refused(path, **options)
    report = run(path, bad_rows="drop", **options)
    assert (report.written.interactions, report.left.bad_rows, report.left.repeated_items) == (
        1,
        2,
        1,
    )


def test_catalogues_and_other_formats(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", f"u,a,{T0},5")
    items = tmp_path / "items.csv"
    items.write_text("item_id,title\na,A\n,B\na,C\nb,D,E\n")
    assert refused(path, items=items).startswith("items.csv, line 5: 3 fields")
    report = run(path, items=items, bad_rows="drop")
    assert (report.left.bad_rows, report.left.repeated_items) == (2, 1)
    (tmp_path / "ratings.dat").write_text(f"1::2::5::{T0}\n1::2::5\n")
    (tmp_path / "movies.dat").write_text("2::A::B\n3::C\n")
    assert run(tmp_path / "ratings.dat", bad_rows="drop").left.bad_rows == 2
    frame = pl.DataFrame({"user_id": ["u", None], "item_id": ["a", "b"], "timestamp": [T0, T0]})
    frame.write_parquet(tmp_path / "log.parquet")
    assert run(tmp_path / "log.parquet", bad_rows="drop").left.bad_rows == 1


def test_an_unlisted_item_stays_its_own_matter(tmp_path: Path) -> None:
    items = tmp_path / "items.csv"
    items.write_text("item_id,title\na,A\n")
    path = write(tmp_path / "log.csv", f"u,a,{T0},5", "u,x,soon,5", f"u,y,{T0},5")
    assert "= 'y' has no row in the catalogue (1 interactions" in refused(path, items=items, bad_rows="drop")  # fmt: skip
    report = run(path, items=items, bad_rows="drop", unlisted="add")
    assert (report.left.unlisted_added, report.left.bad_rows) == (1, 1)


def test_the_command_line_says_what_it_dropped(tmp_path: Path) -> None:
    rows = [f"u,a,{T0},A"] + [f",a,{T0},A"] * 5
    path = write(tmp_path / "log.csv", *rows, header="user_id,item_id,timestamp,title")
    arguments = ["ingest", str(path), str(tmp_path / "shop"), "--bad-rows", "drop"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "5 rows that can't be read were dropped" in done.stdout
    assert [line.split(":")[1].strip() for line in done.stderr.splitlines()] == ["dropped"] * 4
    assert "line 5: column 'user_id' is empty" in done.stderr
    assert done.stderr.endswith("and 2 more\n")
