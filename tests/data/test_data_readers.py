"""Every format, on small files of its own making."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from data_logs import T0, as_dict, write_pair

from weft.data.ingest import ingest, read_domain
from weft.data.readers import READERS, find_reader, read_source
from weft.data.source import Source
from weft.errors import WeftError
from weft.settings import validate


def read(**settings: Any) -> Any:
    return read_domain(validate(Source, settings))[0]


def write(path: Path, text: str | bytes) -> Path:
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def lines(*records: Any) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


EXPECTED = {"ann": [("b", T0), ("a", T0 + 5)], "bob": [("a", T0 + 1)]}


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "tsv"])
def test_delimited_with_a_column_map(tmp_path: Path, suffix: str) -> None:
    s = "\t" if suffix == "tsv" else ","
    rows = [
        ["who", "what", "when", "session"],
        ["ann", "a", T0 + 5, 1],
        ["bob", "a", T0 + 1, 2],
        ["ann", "b", T0, 3],
    ]
    log = write(tmp_path / f"log.{suffix}", "\r\n".join(s.join(map(str, r)) for r in rows))
    items = write(
        tmp_path / f"items.{suffix}",
        f'sku{s}name{s}colour\na{s}"A ""fine"" one,\n new"{s}red\nb{s}{s}\n',
    )
    domain = read(
        interactions=log, items=items, item_columns={"item_id": "sku", "title": "name"},
        columns={"user_id": "who", "item_id": "what", "timestamp": "when"},
    )  # fmt: skip
    assert as_dict(domain) == EXPECTED
    assert domain.items.frame.to_dicts() == [
        {"item_id": "a", "title": 'A "fine" one,\n new', "colour": "red"},
        {"item_id": "b", "title": "", "colour": ""},
    ]
    assert domain.name == "log"


def test_one_csv_with_titles_is_enough(tmp_path: Path) -> None:
    text = f"user_id,item_id,timestamp,title,kind,price\nann,a,{T0},The A,x,1\nann,b,{T0},The B,y,2\nbob,a,{T0},ignored,z,3\n"
    log = write(tmp_path / "log.csv", text)
    assert read(interactions=log).items.frame.rows() == [("a", "The A"), ("b", "The B")]
    mapped = read(interactions=log, columns={"category": "kind"})
    assert mapped.items.frame.rows(named=True)[1] == {
        "item_id": "b",
        "title": "The B",
        "category": "y",
    }


def test_csv_without_header_or_times(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", "\ufeffa,ann\nb,ann\n\na,bob\nc,ann\n\n")
    domain = read(
        interactions=log,
        header=False,
        time_unit="order",
        untitled=True,
        columns={"user_id": "2", "item_id": "1"},
    )
    assert as_dict(domain) == {"ann": [("a", 0), ("b", 1), ("c", 2)], "bob": [("a", 0)]}


@pytest.mark.parametrize(
    ("unit", "written", "seconds"),
    [
        ("s", "1400000000", 1_400_000_000), ("s", "1400000000.9", 1_400_000_000),
        ("s", " 1.4e9 ", 1_400_000_000), ("ms", "1400000000999", 1_400_000_000),
        ("us", "1400000000999999", 1_400_000_000), ("ns", "1400000000999999999", 1_400_000_000),
        ("iso", "2014-05-13", 1_399_939_200), ("iso", "2014-05-13 16:53:20", 1_400_000_000),
        ("iso", "2014-05-13T16:53:20Z", 1_400_000_000), ("iso", "2014-05-13T16:53", 1_399_999_980),
        ("iso", "2014-05-13T18:53:20.5+02:00", 1_400_000_000),
    ],
)  # fmt: skip
def test_times(tmp_path: Path, unit: str, written: str, seconds: int) -> None:
    log = write(tmp_path / "log.csv", f"user_id,item_id,timestamp\nann,a,{written}\n")
    assert read(interactions=log, time_unit=unit, untitled=True).sequences.time.tolist() == [
        seconds
    ]


def test_jsonl(tmp_path: Path) -> None:
    log = write(tmp_path / "log.jsonl.gz", "\n" + lines(
        {"u": "ann", "i": 1, "timestamp": T0 + 5}, {"u": "bob", "i": 1, "timestamp": str(T0 + 1), "x": {}},
        {"u": "ann", "i": 2, "timestamp": float(T0)},
    ))  # fmt: skip
    items = write(tmp_path / "items.jsonl", lines(
        {"i": 1, "name": "One", "tags": ["x", None, "y"]}, {"i": 2, "name": None, "size": 4},
    ))  # fmt: skip
    domain = read(
        interactions=log, items=items, columns={"user_id": "u", "item_id": "i"},
        item_columns={"item_id": "i", "title": "name"},
    )  # fmt: skip
    assert as_dict(domain) == {"ann": [("2", T0), ("1", T0 + 5)], "bob": [("1", T0 + 1)]}
    assert domain.items.frame.to_dicts() == [
        {"item_id": "1", "title": "One", "tags": "x, y", "size": ""},
        {"item_id": "2", "title": "", "tags": "", "size": "4"},
    ]


def test_one_jsonl_with_titles_is_enough(tmp_path: Path) -> None:
    log = write(tmp_path / "log.jsonl", lines({"user_id": "u", "item_id": "a", "title": "A"}))
    domain = read(interactions=log, time_unit="order")
    assert domain.items.titles == ["A"]


def test_half_characters_do_not_stop_a_log(tmp_path: Path) -> None:
    text = f'{{"user_id": "u", "item_id": "a", "timestamp": {T0}, "title": "cut \\ud83d, whole \\ud83d\\ude00"}}\n'
    log = write(tmp_path / "log.jsonl", text)
    assert read(interactions=log).items.titles == ["cut \ufffd, whole 😀"]
    meta = write(tmp_path / "meta.json", "{'asin': 'a', 'title': u'whole \\ud83d\\ude00'}")
    table = write(tmp_path / "r.csv", f"u,a,5,{T0}\n")
    domain = read(format="amazon-2014", interactions=table, items=meta)
    assert domain.items.titles == ["whole 😀"]


def test_recbole(tmp_path: Path) -> None:
    write(
        tmp_path / "ml.inter",
        f"user_id:token\titem_id:token\trating:float\ttimestamp:float\nann\ta\t4\t{T0 + 5}.0\nbob\ta\t2\t{T0 + 1}\nann\tb\t5\t{T0}\n",
    )
    write(
        tmp_path / "ml.item",
        'item_id:token\tmovie_title:token_seq\tclass:token_seq\na\tThe "A\tx y\nb\tB\t\n',
    )
    domain = read(interactions=tmp_path)
    assert as_dict(domain) == EXPECTED
    assert domain.items.frame.rows() == [("a", 'The "A', "x y"), ("b", "B", "")]
    assert as_dict(read(interactions=tmp_path / "ml.inter", minimum_rating=4)) == {
        "ann": EXPECTED["ann"]
    }


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_movielens(tmp_path: Path, encoding: str) -> None:
    write(
        tmp_path / "ratings.dat", f"ann::a::5::{T0 + 5}\nbob::a::3.5::{T0 + 1}\nann::b::1::{T0}\n"
    )
    movies = "a::Léon: The Professional :: Cut (1994)::Crime|Drama\nb::Untitled::\n"
    write(tmp_path / "movies.dat", movies.encode(encoding))
    domain = read(interactions=tmp_path)
    assert as_dict(domain) == EXPECTED
    assert domain.items.frame.to_dicts() == [
        {
            "item_id": "a",
            "title": "Léon: The Professional :: Cut (1994)",
            "category": "Crime, Drama",
            "year": "1994",
        },
        {"item_id": "b", "title": "Untitled", "category": "", "year": ""},
    ]


def test_amazon_2014(tmp_path: Path) -> None:
    reviews = write(tmp_path / "reviews.json.gz", "".join(
        repr({"reviewerID": u, "asin": i, "unixReviewTime": t, "overall": 5.0, "reviewText": "it's"}) + "\n"
        for u, i, t in [("ann", "a", T0 + 5), ("bob", "a", T0 + 1), ("ann", "b", T0)]
    ))  # fmt: skip
    meta = write(tmp_path / "meta.json.gz",
        "{'asin': 'a', 'title': \"Tom &amp; <b>Jerry's</b>\", 'categories': [['Toys', 'Cats'], ['Z']], 'price': 1.0}\n"
        "{'asin': 'b', 'brand': 'B\\n&quot;'}\n")  # fmt: skip
    domain = read(format="amazon-2014", interactions=reviews, items=meta)
    assert as_dict(domain) == EXPECTED
    assert domain.items.frame.rows() == [
        ("a", "Tom & Jerry's", "", "Toys, Cats", ""), ("b", "", 'B "', "", ""),
    ]  # fmt: skip
    table = write(
        tmp_path / "ratings.csv", f"ann,a,5.0,{T0 + 5}\nbob,a,1.0,{T0 + 1}\nann,b,5.0,{T0}\n"
    )
    assert as_dict(read(format="amazon-2014", interactions=table, items=meta)) == EXPECTED


def test_a_literal_is_never_run(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    evil = f"{{'asin': __import__('pathlib').Path({str(flag)!r}).touch()}}\n"
    meta = write(tmp_path / "meta.json", evil)
    reviews = write(
        tmp_path / "r.json", lines({"reviewerID": "u", "asin": "a", "unixReviewTime": T0})
    )
    with pytest.raises(WeftError, match=r"meta\.json, line 1: not a readable record"):
        read(format="amazon-2014", interactions=reviews, items=meta)
    assert not flag.exists()


def test_amazon_2018(tmp_path: Path) -> None:
    reviews = write(tmp_path / "r.json.gz", lines(*(
        {"reviewerID": u, "asin": i, "unixReviewTime": t, "overall": 5.0}
        for u, i, t in [("ann", "a", T0 + 5), ("bob", "a", T0 + 1), ("ann", "b", T0)]
    )))  # fmt: skip
    a = {
        "asin": "a",
        "title": "A",
        "category": ["X", "Y", "</span></span>"],
        "description": ["d", "e"],
    }
    b = {"asin": "b", "title": "var aPageStart = (new Date()).getTime();", "brand": "by\n  Bee"}
    meta = write(tmp_path / "meta.json.gz", lines(a, b, a))
    domain, left, _ = read_domain(Source(format="amazon-2018", interactions=reviews, items=meta))
    assert as_dict(domain) == EXPECTED
    assert left.repeated_items == 1
    assert domain.items.frame.rows() == [
        ("a", "A", "", "X, Y", "d, e"),
        ("b", "", "by Bee", "", ""),
    ]
    table = write(tmp_path / "r.csv", f"a,ann,5.0,{T0 + 5}\na,bob,1.0,{T0 + 1}\nb,ann,5.0,{T0}\n")
    assert as_dict(read(format="amazon-2018", interactions=table, items=meta)) == EXPECTED


def test_amazon_2023(tmp_path: Path) -> None:
    reviews = write(tmp_path / "r.jsonl", lines(*(
        {"user_id": u, "parent_asin": i, "asin": "no", "timestamp": t * 1000 + 7, "rating": 5.0, "title": "Review!"}
        for u, i, t in [("ann", "a", T0 + 5), ("bob", "a", T0 + 1), ("ann", "b", T0)]
    )))  # fmt: skip
    meta = write(tmp_path / "meta.jsonl", lines(
        {"parent_asin": "a", "title": "A", "store": "S", "categories": ["X", "Y"], "description": []},
        {"parent_asin": "b", "title": None, "store": None, "categories": []},
    ))  # fmt: skip
    domain = read(format="amazon-2023", interactions=reviews, items=meta)
    assert as_dict(domain) == EXPECTED
    assert domain.items.frame.rows() == [("a", "A", "S", "X, Y", ""), ("b", "", "", "", "")]
    table = write(tmp_path / "r.csv", f"user_id,parent_asin,rating,timestamp\nann,b,1.0,{T0}000\n")
    assert as_dict(read(format="amazon-2023", interactions=table, items=meta)) == {
        "ann": [("b", T0)]
    }


def test_two_parquet_files_with_a_column_map(tmp_path: Path) -> None:
    pl.DataFrame({"u": ["ann"], "i": ["a"], "t": [T0 * 1000]}).write_parquet(tmp_path / "x.parquet")
    pl.DataFrame({"i": ["a"], "name": ["A"]}).write_parquet(tmp_path / "y.parquet")
    domain = read(
        interactions=tmp_path / "x.parquet", items=tmp_path / "y.parquet", time_unit="ms",
        columns={"user_id": "u", "item_id": "i", "timestamp": "t"},
        item_columns={"item_id": "i", "title": "name"},
    )  # fmt: skip
    assert as_dict(domain) == {"ann": [("a", T0)]}
    assert domain.items.titles == ["A"]


@pytest.mark.parametrize(
    ("name", "format"),
    [("a.csv", "csv"), ("a.csv.gz", "csv"), ("a.tsv", "tsv"), ("a.jsonl", "jsonl"),
     ("a.ndjson.gz", "jsonl"), ("a.inter", "recbole"), ("ratings.dat", "movielens"), ("a.parquet", "parquet")],
)  # fmt: skip
def test_the_name_tells_the_format(tmp_path: Path, name: str, format: str) -> None:
    (tmp_path / name).touch()
    assert find_reader(Source(interactions=tmp_path / name)).name == format
    if format in ("recbole", "movielens", "parquet"):
        assert find_reader(Source(interactions=tmp_path)).name == format


def test_formats_have_names_of_their_own() -> None:
    assert len({reader.name for reader in READERS}) == len(READERS)


def test_ratings_below_the_minimum_and_unlisted_items_are_counted(tmp_path: Path) -> None:
    log = write(
        tmp_path / "l.csv",
        f"user_id,item_id,timestamp,rating\nann,a,{T0},4\nann,x,{T0},5\nbob,a,{T0},3.5\nbob,y,{T0},4\nbob,x,{T0},1\n",
    )
    items = write(tmp_path / "i.csv", "item_id,title\na,A\n")
    added, left, _ = read_domain(
        Source(interactions=log, items=items, unlisted="add", minimum_rating=4)
    )
    assert as_dict(added) == {"ann": [("a", T0), ("x", T0)], "bob": [("y", T0)]}
    assert (left.below_rating, left.unlisted_added) == (2, 2)
    assert added.items.frame.rows() == [("a", "A"), ("x", ""), ("y", "")]
    dropped, left, _ = read_domain(Source(interactions=log, items=items, unlisted="drop"))
    assert as_dict(dropped) == {"ann": [("a", T0)], "bob": [("a", T0)]}
    assert left.unlisted_dropped == 3


def test_ingest_writes_a_domain_folder_and_says_what_it_did(tmp_path: Path) -> None:
    log = write(
        tmp_path / "l.csv",
        f"user_id,item_id,timestamp,title\nann,a,{T0},A\nann,b,{T0},B\nbob,b,{T0},B\n",
    )
    report = ingest(Source(interactions=log), tmp_path / "shop")
    manifest = json.loads((tmp_path / "shop" / "domain.json").read_text())
    assert (report.name, report.format, report.written.interactions) == ("shop", "csv", 3)
    assert report.users_with_ties == 1
    assert manifest["hash"] == report.hash
    assert manifest["source"]["interactions"]["file"] == "l.csv"
    assert str(tmp_path) not in json.dumps(manifest)  # a manifest travels; machine paths do not
    with pytest.raises(WeftError, match="exists already"):
        ingest(Source(interactions=log), tmp_path / "shop")
    again = ingest(Source(interactions=tmp_path / "shop"), tmp_path / "copy")
    assert again.hash == report.hash


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"format": "csw"}, "there is no format 'csw'; there are parquet, csv"),
        (
            {"format": "amazon-2018", "time_unit": "s"},
            "amazon-2018 is fixed; it takes no 'time_unit'",
        ),
        ({"format": "movielens", "columns": {"user_id": "u"}}, "takes no 'columns'"),
        ({"format": "jsonl", "header": False}, "takes no 'header'"),
    ],
)
def test_settings_that_a_format_does_not_use_are_refused(
    tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(WeftError, match=words):
        read_source(Source(interactions=tmp_path / "x.csv", **settings))


def test_settings_are_checked_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(WeftError, match=r"colums: not known"):
        validate(Source, {"interactions": tmp_path, "colums": {}})
    with pytest.raises(WeftError, match="columns maps 'titel'"):
        validate(Source, {"interactions": tmp_path, "items": tmp_path, "columns": {"titel": "x"}})
    with pytest.raises(WeftError, match="is not clear from its name"):
        read_source(Source(interactions=write(tmp_path / "x.xml.gz", "{}")))
    with pytest.raises(WeftError, match=r"x\.csv does not exist"):
        read_source(Source(interactions=tmp_path / "x.csv"))
    write_pair(tmp_path / "d", [("u", "a", T0)])
    log = write(tmp_path / "l.csv", "user_id,item_id,timestamp\nu,a,1\n")
    with pytest.raises(WeftError, match="no items file is given"):
        read_source(Source(interactions=log, item_columns={"title": "x"}))
