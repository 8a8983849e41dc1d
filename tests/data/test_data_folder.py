"""Domain folders: order, ties, round trips."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from data_logs import T0, as_dict, make_domain, random_rows, write_pair
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.data import folder as folder_module
from weft.data.folder import load_domain, save_domain, tied_users
from weft.errors import WeftError

ROWS = st.lists(
    st.tuples(
        st.sampled_from(["ann", "bob", "çe", "10", "9"]),
        st.sampled_from(["x", "y", "z"]),
        st.integers(T0, T0 + 3),
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=40, deadline=None)
@given(rows=ROWS)
def test_load_orders_users_by_first_row_and_interactions_by_time_then_row(
    rows: list[tuple[str, str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write_pair(tmp_path_factory.mktemp("d"), rows)
    expected = make_domain(rows)  # Python's sort is stable: rows of equal time keep their order
    domain = load_domain(path)
    assert list(as_dict(domain)) == list(dict.fromkeys(user for user, _, _ in rows))
    assert as_dict(domain) == as_dict(expected)
    assert domain.hash == expected.hash


def test_row_order_decides_ties_and_only_ties(tmp_path: Path) -> None:
    tied = [("u", "b", T0), ("u", "a", T0), ("u", "c", T0 - 5), ("v", "a", T0), ("v", "b", T0 + 1)]
    domain = load_domain(write_pair(tmp_path, tied))
    assert as_dict(domain)["u"] == [("c", T0 - 5), ("b", T0), ("a", T0)]
    assert tied_users(domain) == 1


def test_interleaved_users_give_the_same_sequences(tmp_path: Path) -> None:
    rows = random_rows(0, 300, 20, 15)
    domain = load_domain(write_pair(tmp_path / "a", rows))
    grouped = sorted(rows, key=lambda row: row[0])  # stable
    assert as_dict(load_domain(write_pair(tmp_path / "b", grouped))) == as_dict(domain)


def test_types_are_those_of_the_contract(tmp_path: Path) -> None:
    s = load_domain(write_pair(tmp_path, [("u", "a", T0), ("u", "b", T0)])).sequences
    assert (s.offsets.dtype, s.item.dtype, s.time.dtype) == (np.int64, np.int32, np.int64)
    assert s.user_ids.dtype == pl.String


def test_whole_number_ids_and_missing_texts_become_text(tmp_path: Path) -> None:
    items = {
        "item_id": [7, 8],
        "title": ["Seven", None],
        "brand": [None, "B"],
        "tags": [["a", "b"], []],
    }
    domain = load_domain(write_pair(tmp_path, [(1, 7, T0), (1, 8, T0 + 1)], items))
    assert as_dict(domain) == {"1": [("7", T0), ("8", T0 + 1)]}
    assert domain.items.frame.rows() == [("7", "Seven", "", "a, b"), ("8", "", "B", "")]


def test_datetimes_in_parquet_become_seconds(tmp_path: Path) -> None:
    write_pair(tmp_path, [("u", "a", T0)])
    log = pl.read_parquet(tmp_path / "interactions.parquet")
    for unit in ("ms", "us", "ns"):
        when = log.with_columns(
            pl.from_epoch("timestamp", "s").cast(pl.Datetime(unit, "Asia/Tokyo"))
        )
        when.write_parquet(tmp_path / "interactions.parquet")
        assert load_domain(tmp_path).sequences.time.tolist() == [T0]


def test_save_then_load_gives_the_same_hash_and_a_manifest(tmp_path: Path) -> None:
    domain = load_domain(write_pair(tmp_path / "in", random_rows(1, 200, 20, 15)))
    save_domain(domain, tmp_path / "out", source={"format": "test"})
    again = load_domain(tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "domain.json").read_text())
    assert again.hash == domain.hash == manifest["hash"]
    assert manifest["interactions"] == 200
    assert manifest["users_with_ties"] == tied_users(domain)
    assert manifest["source"] == {"format": "test"}


def test_the_name_is_the_given_one_or_the_manifest_s_or_the_folder_s(tmp_path: Path) -> None:
    path = write_pair(tmp_path / "shop", [("u", "a", T0)])
    assert load_domain(path).name == "shop"
    save_domain(load_domain(path, "books"), tmp_path / "copy")
    assert load_domain(tmp_path / "copy").name == "books"
    assert load_domain(tmp_path / "copy", "mine").name == "mine"


def test_saving_over_a_folder_needs_replace(tmp_path: Path) -> None:
    domain = load_domain(write_pair(tmp_path / "a", [("u", "a", T0)]))
    with pytest.raises(WeftError, match="exists already"):
        save_domain(domain, tmp_path / "a")
    save_domain(domain, tmp_path / "a", replace=True)
    assert load_domain(tmp_path / "a").hash == domain.hash


def test_only_a_domain_folder_is_replaced(tmp_path: Path) -> None:
    domain = load_domain(write_pair(tmp_path / "a", [("u", "a", T0)]))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(WeftError, match="not a domain folder, so it is not replaced"):
        save_domain(domain, tmp_path / "photos", replace=True)
    assert (tmp_path / "photos" / "cat.jpg").exists()


def test_a_failure_while_saving_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = load_domain(write_pair(tmp_path / "a", [("u", "a", T0)]))

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(folder_module, "write_json", fail)
    with pytest.raises(OSError, match="disk full"):
        save_domain(domain, tmp_path / "b")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_of_two_ingests_to_one_place_one_wins_and_the_other_says_so(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,title\nx,A lamp\ny,A desk\n")
    counts, started = [30_000, 2], []
    for count in counts:
        log = tmp_path / f"{count}.csv"
        rows = "".join(f"u{i},x,{T0 + i}\nu{i},y,{T0 + i}\n" for i in range(count))
        log.write_text("user_id,item_id,timestamp\n" + rows)
        program = ["-c", "from weft.cli.main import main; main()"]
        command = ["data", "ingest", str(log), str(tmp_path / "out")]
        command += ["--items", str(tmp_path / "items.csv")]
        started.append(
            subprocess.Popen(
                [sys.executable, *program, *command], stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL, text=True,
            )
        )  # fmt: skip
    words = [one.communicate()[1] for one in started]
    codes = [one.returncode for one in started]
    assert sorted(codes) == [0, 2], words
    assert "exists already" in words[codes.index(2)] and words[codes.index(2)].count("\n") == 1
    assert load_domain(tmp_path / "out").sequences.user_ids.len() == counts[codes.index(0)]
