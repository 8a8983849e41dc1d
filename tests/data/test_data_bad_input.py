"""Bad input: one sentence with the file, the column and the first offending row; nothing left."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from data_logs import T0, write_pair

from weft.data.folder import load_domain, save_domain
from weft.data.ingest import ingest, read_domain
from weft.data.readers import records
from weft.data.source import Source
from weft.errors import WeftError
from weft.settings import validate

GOOD = [("ann", "a", T0), ("ann", "b", T0 + 1), ("bob", "a", T0)]
CSV = f"user_id,item_id,timestamp\nann,a,{T0}\n"


def refuse(folder: Path, **settings: Any) -> str:
    """Ingesting must fail with one line that names a file; nothing may be left behind."""
    before = sorted(folder.rglob("*"))
    with pytest.raises(WeftError) as caught:
        ingest(validate(Source, settings), folder / "out")
    assert sorted(folder.rglob("*")) == before
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message.replace(str(folder) + "/", "")


def pair_with(folder: Path, timestamps: list[Any]) -> Path:
    write_pair(folder, GOOD)
    log = pl.read_parquet(folder / "interactions.parquet")
    log.with_columns(timestamp=pl.Series(timestamps)).write_parquet(folder / "interactions.parquet")
    return folder


@pytest.mark.parametrize(
    ("timestamps", "words"),
    [
        ([T0, None, T0], "row 2: column 'timestamp' is empty"),
        ([1.0, 2.0, float("nan")], "row 3: column 'timestamp' = nan is not a time"),
        ([1.0, float("inf"), 2.0], "row 2: column 'timestamp' = inf is not a time"),
        ([T0, T0, -1], "row 3: column 'timestamp' = -1 is a time before 1970"),
        ([T0 * 1000, T0, T0], "is beyond the year 9999 if it counts s; is the time unit another?"),
        (["yesterday", "1", "2"], "row 1: column 'timestamp' = 'yesterday' is not a time"),
        ([True, True, False], "row 1: column 'timestamp' holds Boolean, not times"),
        ([2**63 + 5, 1, 2], "row 1: column 'timestamp' = 9223372036854775813 is not a time"),
    ],
)
def test_times_in_parquet(tmp_path: Path, timestamps: list[Any], words: str) -> None:
    message = refuse(tmp_path, interactions=pair_with(tmp_path / "in", timestamps))
    assert message.startswith("in/interactions.parquet")
    assert words in message


@pytest.mark.parametrize(
    ("rows", "items", "words"),
    [
        ([*GOOD, ("bob", "x", T0), ("ann", "x", T0)], {"a": "A", "b": "B"},
         "interactions.parquet, row 4: column 'item_id' = 'x' has no row in the catalogue (2 interactions of 1 items have none; unlisted: add or drop them)"),
        (GOOD, {"item_id": ["a", "b", "a"], "title": ["A", "B", "C"]},
         "items.parquet, row 3: column 'item_id' = 'a' has a row already (row 1)"),
        (GOOD, {"item_id": ["a", "", "b"], "title": ["A", "B", "C"]}, "items.parquet, row 2: column 'item_id' is empty"),
        (GOOD, {"item_id": ["a", None, "b"], "title": ["A", "B", "C"]}, "items.parquet, row 2: column 'item_id' is empty"),
        (GOOD, {"item": ["a", "b"], "item_id ": ["A", "B"]}, "items.parquet: there is no column 'item_id' (its columns: 'item', 'item_id ')"),
        ([("ann", "a", T0), (None, "a", T0)], None, "interactions.parquet, row 2: column 'user_id' is empty"),
        ([("ann", "a", T0), ("", "a", T0)], None, "interactions.parquet, row 2: column 'user_id' is empty"),
        ([("ann", "a", T0), ("ann", None, T0)], {"a": "A"}, "interactions.parquet, row 2: column 'item_id' is empty"),
        ([(1.5, "a", T0)], {"a": "A"}, "row 1: column 'user_id' holds Float64; ids are text or whole numbers"),
    ],
)  # fmt: skip
def test_ids_in_parquet(tmp_path: Path, rows: list[Any], items: Any, words: str) -> None:
    if items is not None and "item" in items:
        write_pair(tmp_path / "in", rows)
        pl.DataFrame(items).write_parquet(tmp_path / "in" / "items.parquet")
    else:
        write_pair(tmp_path / "in", rows, items)
    assert words in refuse(tmp_path, interactions=tmp_path / "in")


@pytest.mark.parametrize("column", ["user_id", "item_id", "timestamp"])
def test_missing_columns(tmp_path: Path, column: str) -> None:
    file = write_pair(tmp_path / "in", GOOD) / "interactions.parquet"
    pl.read_parquet(file).drop(column).write_parquet(file)
    message = refuse(tmp_path, interactions=tmp_path / "in")
    assert message.startswith(
        f"in/interactions.parquet: there is no column '{column}' (its columns:"
    )


@pytest.mark.parametrize("name", ["interactions.parquet", "items.parquet"])
@pytest.mark.parametrize("left", [0, 10, 0.5, 0.99])
def test_truncated_parquet(tmp_path: Path, name: str, left: float) -> None:
    file = write_pair(tmp_path / "in", GOOD) / name
    data = file.read_bytes()
    file.write_bytes(data[: int(left * len(data)) if left < 1 else int(left)])
    assert f"in/{name} is not a whole parquet file" in refuse(
        tmp_path, interactions=tmp_path / "in"
    )


def test_parquet_damaged_in_the_middle(tmp_path: Path) -> None:
    file = (
        write_pair(tmp_path / "in", [(f"u{n}", "a", T0 + n) for n in range(5000)])
        / "interactions.parquet"
    )
    data = bytearray(file.read_bytes())
    data[20:2000] = bytes(1980)
    file.write_bytes(bytes(data))
    assert "in/interactions.parquet is not a whole parquet file" in refuse(
        tmp_path, interactions=tmp_path / "in"
    )


def test_folders_that_are_no_domain(tmp_path: Path) -> None:
    with pytest.raises(WeftError, match="nothing is not a folder"):
        load_domain(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeftError, match=r"empty/interactions\.parquet does not exist"):
        load_domain(tmp_path / "empty")
    write_pair(tmp_path / "half", GOOD)
    (tmp_path / "half" / "items.parquet").unlink()
    with pytest.raises(WeftError, match=r"half/items\.parquet does not exist"):
        load_domain(tmp_path / "half")


def test_no_rows(tmp_path: Path) -> None:
    file = write_pair(tmp_path / "in", GOOD) / "interactions.parquet"
    pl.read_parquet(file).head(0).write_parquet(file)
    assert (
        refuse(tmp_path, interactions=tmp_path / "in")
        == "in/interactions.parquet: there is no interaction in it"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "log.csv is empty"),
        ("\n\n", "log.csv has no rows"),
        ("user_id,item_id,timestamp\n", "log.csv: there is no interaction in it"),
        ("user,item_id,timestamp\nann,a,1\n", "log.csv: there is no column 'user_id' (its columns: 'user', 'item_id', 'timestamp')"),
        (CSV + "\nbob,a\n", "log.csv, line 4: column 'timestamp' is empty"),
        (CSV + "\n\nbob,,5\n", "log.csv, line 5: column 'item_id' is empty"),
        (CSV + "bob,a,5,6\n", "log.csv, line 3: 4 fields, but the first line has 3"),
        (CSV + "bob,a,soon\n", "log.csv, line 3: column 'timestamp' = 'soon' is not a time"),
        (CSV + "bob,a,NaN\n", "log.csv, line 3: column 'timestamp' = 'NaN' is not a time"),
        (CSV + "bob,a,-3\n", "log.csv, line 3: column 'timestamp' = '-3' is a time before 1970"),
        (CSV + '"b\no\nb",a,5\nbob,a,x\n', "log.csv, line 6: column 'timestamp' = 'x' is not a time"),
        (CSV + 'bob,a,"5\ncy,a,7\n', "log.csv, line 3: a quoted field begins there and doesn't end where a field ends (unexpected end of data); a file in which quotes are characters like any is read with --quoting none"),
        (CSV.encode() + b"b\xf6b,a,5\n", "log.csv, line 3: not UTF-8 text; name its encoding, such as --encoding latin-1"),
    ],
)  # fmt: skip
def test_csv(tmp_path: Path, text: str | bytes, words: str) -> None:
    (tmp_path / "log.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert refuse(tmp_path, interactions=tmp_path / "log.csv").startswith(words)


def test_csv_names_the_file_s_own_column(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("who,item_id,when\nann,a,x\n")
    message = refuse(
        tmp_path, interactions=tmp_path / "log.csv", columns={"user_id": "who", "timestamp": "when"}
    )
    assert message == (
        "log.csv, line 2: column 'when' = 'x' is not a time; --bad-rows drop leaves this row out"
    )
    message = refuse(tmp_path, interactions=tmp_path / "log.csv", columns={"user_id": "whom"})
    assert message == "log.csv: there is no column 'whom' (its columns: 'who', 'item_id', 'when')"


def test_iso_times(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(
        "user_id,item_id,timestamp\nann,a,2014-05-13\nann,a,13.5.2014\n"
    )
    message = refuse(tmp_path, interactions=tmp_path / "log.csv", time_unit="iso")
    assert message.startswith(
        "log.csv, line 3: column 'timestamp' = '13.5.2014' is not a time (a date like"
    )


def test_a_unit_that_is_too_fine(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(CSV)
    message = refuse(tmp_path, interactions=tmp_path / "log.csv", time_unit="ms")
    assert message.startswith(f"log.csv, line 2: column 'timestamp' = '{T0}' lies in early 1970")


@pytest.mark.parametrize("format", ["csv", "jsonl"])
@pytest.mark.parametrize("keep", [11, 0.5])
def test_truncated_gzip(tmp_path: Path, format: str, keep: float) -> None:
    record = json.dumps({"user_id": "ann", "item_id": "a", "timestamp": T0})
    text = CSV + CSV * 500 if format == "csv" else f"{record}\n" * 500
    data = gzip.compress(text.encode())
    file = tmp_path / f"log.{format}.gz"
    file.write_bytes(data[: int(keep * len(data)) if keep < 1 else int(keep)])
    assert "broken or truncated gzip file" in refuse(tmp_path, interactions=file)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([{"user_id": 1}, {"user_id": "a"}], "line 3: field 'user_id' = 'a' is text, but it is a number on line 1; ids must be all text or all numbers"),
        ([{"user_id": "a"}, {"user_id": 1}], "line 3: field 'user_id' = 1 is a number, but it is text on line 1"),
        ([{}, {"item_id": 1.5}], "line 3: field 'item_id' = 1.5 is no id; ids are text or whole numbers"),
        ([{}, {"item_id": None}], "line 3: column 'item_id' is empty"),
        ([{}, {"user_id": True}], "line 3: field 'user_id' = True is no id"),
        ([{}, {"timestamp": "soon"}], "line 3: column 'timestamp' = 'soon' is not a time"),
        ([{}, {"timestamp": float("nan")}], "line 3: not a readable record (NaN is no finite number)"),
        ([{}, {"timestamp": [1]}], "line 3: column 'timestamp' = '[\"1\"]' is not a time"),
        ([{}, {"timestamp": 10**30}], "line 3: column 'timestamp' = '1000000000000000000000000000000' is not a time"),
        ([{}, {"timestamp": None}], "line 3: column 'timestamp' is empty"),
    ],
)  # fmt: skip
def test_jsonl(tmp_path: Path, given: list[dict[str, Any]], words: str) -> None:
    full = [{"user_id": "ann", "item_id": "a", "timestamp": T0, **record} for record in given]
    (tmp_path / "log.jsonl").write_text("\n\n".join(map(json.dumps, full)))
    assert f"log.jsonl, {words}" in refuse(tmp_path, interactions=tmp_path / "log.jsonl")


@pytest.mark.parametrize("chunk", [1, 2, 3, 5])
def test_jsonl_ids_that_change_kind_in_a_later_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(records, "CHUNK", chunk)
    ids: list[Any] = [1, 2, 3, 4, 5, "x"]
    lines = [
        json.dumps({"user_id": "u", "item_id": i, "timestamp": T0 + n}) for n, i in enumerate(ids)
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(lines[:5]))
    domain, _, _ = read_domain(Source(interactions=tmp_path / "log.jsonl", untitled=True))
    assert domain.items.item_ids == ["1", "2", "3", "4", "5"]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    message = refuse(tmp_path, interactions=tmp_path / "log.jsonl")
    assert "line 6: field 'item_id' = 'x' is text, but it is a number on line 1" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "log.jsonl is empty"),
        (b" \n", "log.jsonl: there is no interaction in it"),
        (
            b'{"user_id": "u", "item_id": ',
            "log.jsonl, line 1: not a readable record (Expecting value",
        ),
        (b"[1, 2]\n", "log.jsonl, line 1: a list, not an object"),
        (
            b'{"user_id": "u"}\n',
            "log.jsonl, line 1: there is no field 'item_id' (its fields: user_id)",
        ),
        (b'{"a": "\xff"}\n', "log.jsonl, line 1: not UTF-8 text (invalid start byte)"),
        (b"[" * 100_000, "log.jsonl, line 1: not a readable record"),
    ],
)
def test_jsonl_that_is_none(tmp_path: Path, text: bytes, words: str) -> None:
    (tmp_path / "log.jsonl").write_bytes(text)
    assert refuse(tmp_path, interactions=tmp_path / "log.jsonl").startswith(words)


def test_two_json_rows_for_one_item(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(json.dumps({"user_id": 1, "item_id": 2, "timestamp": T0}))
    (tmp_path / "items.jsonl").write_text('{"item_id": 2, "title": "A"}\n\n{"item_id": 2}\n')
    message = refuse(tmp_path, interactions=tmp_path / "log.jsonl", items=tmp_path / "items.jsonl")
    assert message.startswith(
        "items.jsonl, line 3: column 'item_id' = '2' has a row already (line 1)"
    )


@pytest.mark.parametrize(
    ("inter", "words"),
    [
        ("user_id\titem_id:token\n", "x.inter, line 1: the header 'user_id' has no type"),
        ("user_id:token\titem_id:token\nann\ta\n", "x.inter: there is no column 'timestamp'"),
        (f"user_id:token\titem_id:token\ttimestamp:float\nann\ta\t{T0}\nbob\ta\tx\n", "x.inter, line 3: column 'timestamp' = 'x' is not a time"),
    ],
)  # fmt: skip
def test_recbole(tmp_path: Path, inter: str, words: str) -> None:
    (tmp_path / "x.inter").write_text(inter)
    assert words in refuse(tmp_path, interactions=tmp_path / "x.inter")


def test_movielens(tmp_path: Path) -> None:
    (tmp_path / "ratings.dat").write_text(f"1::2::5::{T0}\n\n1::2::5\n")
    (tmp_path / "movies.dat").write_text("2::A::B\n")
    message = refuse(tmp_path, interactions=tmp_path)
    assert message.startswith("ratings.dat, line 3: 3 fields separated by '::', not 4")
    (tmp_path / "ratings.dat").write_text(f"1::2::5::{T0}\n1::3::x::{T0}\n")
    message = refuse(tmp_path, interactions=tmp_path)
    assert message.startswith(
        "ratings.dat, line 2: column 'item_id' = '3' has no row in the catalogue"
    )
    message = refuse(tmp_path, interactions=tmp_path, unlisted="add", minimum_rating=1)
    assert message.startswith("ratings.dat, line 2: column 'rating' = 'x' is not a number")
    (tmp_path / "movies.dat").unlink()
    assert refuse(tmp_path, interactions=tmp_path) == "movies.dat does not exist"


def test_nothing_left_by_the_rating(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp,rating\nann,a,1,2\n")
    message = refuse(tmp_path, interactions=tmp_path / "log.csv", minimum_rating=3)
    assert message.startswith("log.csv: no interaction is left")
    (tmp_path / "log.csv").write_text(CSV)
    message = refuse(tmp_path, interactions=tmp_path / "log.csv", minimum_rating=3)
    assert message.startswith("log.csv: there is no column 'rating'")


def test_a_broken_manifest_is_named(tmp_path: Path) -> None:
    write_pair(tmp_path / "in", GOOD)
    (tmp_path / "in" / "domain.json").write_text("{")
    with pytest.raises(WeftError, match=r"domain\.json is not valid JSON"):
        load_domain(tmp_path / "in")


def test_tables_changed_after_they_were_saved_are_refused(tmp_path: Path) -> None:
    save_domain(load_domain(write_pair(tmp_path / "in", GOOD)), tmp_path / "d")
    write_pair(tmp_path / "d", GOOD[:2])
    with pytest.raises(WeftError, match=r"d: the tables are not those of domain\.json"):
        load_domain(tmp_path / "d")
