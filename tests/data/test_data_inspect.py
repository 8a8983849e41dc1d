"""Inspecting a domain, the command line, and the real data sets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from data_logs import DAY, T0, as_dict, make_domain, write_pair
from typer.testing import CliRunner

from weft.cli.data import app
from weft.data.filters import Filters, apply_filters
from weft.data.folder import load_domain, save_domain, tied_users
from weft.data.inspect import Bin, inspect_domain
from weft.data.splits import leave_one_out
from weft.errors import DataError, SettingError, WeftError

REAL = Path(os.environ.get("WEFT_DATA", Path(__file__).parents[3] / "shared" / "data"))
real_data = [
    pytest.mark.real_data,
    pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data sets in {REAL} (set WEFT_DATA)"),
]


def test_a_report_counts_what_is_there() -> None:
    titles = {"a": "One", "b": " one ", "c": "", "d": "", "e": "A longer title"}
    rows = [
        ("u", "a", T0),
        ("u", "b", T0),
        ("u", "a", T0 + DAY),
        ("v", "c", T0 + 5),
        ("v", "e", T0 + 6),
    ]
    report = inspect_domain(make_domain(rows, titles))
    assert (report.users, report.items, report.interactions) == (2, 5, 5)
    assert report.density == 0.5
    assert report.evaluable_users == 1
    assert (report.users_with_ties, report.tied_interactions) == (1, 2)
    assert report.repeated_items == 1
    assert report.unused_items == 1
    assert (report.missing_titles, report.duplicate_titles) == (2, 2)
    assert report.text_columns == {"title": 3}
    assert report.first_time == "2014-05-13T00:00:00+00:00"
    assert report.length_histogram == (Bin(2, 2, 1), Bin(3, 3, 1))
    assert report.title_histogram == (Bin(1, 9, 2), Bin(10, 19, 1))
    assert report.titles is not None
    assert (report.titles.least, report.titles.most) == (3, 14)


def test_a_report_of_an_order_index_and_of_no_titles() -> None:
    report = inspect_domain(make_domain([("u", "a", 0), ("u", "b", 1)], {"a": "", "b": ""}))
    assert report.first_time is None
    assert report.titles is None
    assert report.title_histogram == ()


def test_ingest_and_inspect_on_the_command_line(tmp_path: Path) -> None:
    rows = "".join(f"u{n % 7},i{n % 5},{T0 + n * DAY}\n" for n in range(60))
    (tmp_path / "log.csv").write_text("who,item_id,timestamp\n" + rows)
    (tmp_path / "items.csv").write_text(
        "item_id,name\n" + "".join(f"i{n},Item {n}\n" for n in range(9))
    )
    arguments = [
        "ingest", str(tmp_path / "log.csv"), str(tmp_path / "shop"), "--items", str(tmp_path / "items.csv"),
        "--column", "user_id=who", "--item-column", "title=name", "--k-core", "2,3",
        "--time-from", "2014-05-14", "--sample-users", "4", "--seed", "3", "--json",
    ]  # fmt: skip
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    report = json.loads(done.stdout)
    assert report["written"]["users"] == 4
    assert [s["step"].split()[0] for s in report["removed"]] == ["time", "k_core", "sample_users"]
    shown = json.loads(
        CliRunner().invoke(app, ["inspect", str(tmp_path / "shop"), "--json"]).stdout
    )
    assert shown["hash"] == report["hash"] == load_domain(tmp_path / "shop").hash
    words = CliRunner().invoke(app, ["inspect", str(tmp_path / "shop")]).stdout
    for expected in ("4  users", "sequence length", "title length in characters"):
        assert expected in words


def test_inspect_counts_what_a_split_makes_of_a_domain(tmp_path: Path) -> None:
    write_pair(tmp_path / "shop", [("u", f"i{n}", T0 + n) for n in range(5)] + [("v", "i0", T0)])
    place = str(tmp_path / "shop")

    def shown(*options: str) -> str:
        return CliRunner().invoke(app, ["inspect", place, *options], catch_exceptions=False).stdout

    split = json.loads(shown("--split", "leave_one_out", "--json"))["split"]
    assert split["split"] == "leave_one_out"
    assert split["train"] == {"users": 1, "targets": 2}
    assert split["validation"] == split["test"] == {"users": 1, "targets": 1}
    assert json.loads(shown("--json"))["split"] is None
    with pytest.raises(SettingError, match="kind 'by_month' is not known"):
        shown("--split", "by_month")
    with pytest.raises(DataError, match="no training targets under the split global_time"):
        shown("--split", "global_time:2013-01-01,2014-01-01")
    assert "2 train targets of 1 users (leave_one_out)" in " ".join(
        shown("--split", "leave_one_out").split()
    )


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["--column", "user_id"], "'user_id' must be NAME=VALUE"),
        (["--k-core", "many"], "k_core"),
        (["--k-core", "5,x"], "k_core.items"),
        (["--time-from", "soon"], "time_from"),
        (["--sample-users", "0"], "sample_users: must be at least 1"),
        (["--where", "colour=red"], "where names the column 'colour'"),
    ],
)
def test_silly_options(tmp_path: Path, option: list[str], words: str) -> None:
    write_pair(tmp_path / "in", [("u", "a", T0)])
    arguments = ["ingest", str(tmp_path / "in"), str(tmp_path / "out"), *option]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, WeftError)
    assert words in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_formats_are_listed() -> None:
    names = [f["name"] for f in json.loads(CliRunner().invoke(app, ["formats", "--json"]).stdout)]
    assert {"csv", "recbole", "amazon-2014", "movielens"} <= set(names)


def test_help_needs_no_heavy_import() -> None:
    code = "import sys, weft.cli.data; print([m for m in ('polars', 'numpy', 'pydantic', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def real_sets() -> list[str]:
    return sorted(p.parent.name for p in REAL.glob("*/interactions.parquet")) or ["none"]


@pytest.mark.parametrize("name", real_sets())
class TestRealSets:
    pytestmark = real_data

    def test_row_order_is_sequence_order_and_survives_a_round_trip(
        self, name: str, tmp_path: Path
    ) -> None:
        domain = load_domain(REAL / name)
        log = pl.read_parquet(REAL / name / "interactions.parquet")
        ids = domain.items.frame["item_id"].gather(domain.sequences.item)
        assert ids.equals(log["item_id"].alias("item_id"))
        save_domain(domain, tmp_path / "copy")
        assert load_domain(tmp_path / "copy").hash == domain.hash

    def test_a_core_leaves_only_what_it_says(self, name: str) -> None:
        domain = load_domain(REAL / name)
        try:
            domain, _ = apply_filters(domain, Filters.model_validate({"k_core": 5, "titled": True}))
        except WeftError as error:
            assert "leaves nothing" in str(error)
            return
        assert domain.sequences.lengths.min() >= 5
        assert np.bincount(domain.sequences.item).min() >= 5
        assert all(title.strip() for title in domain.items.titles)
        split = leave_one_out(domain)
        assert len(split.test) == len(domain.sequences)
        assert len(split.train) == (domain.sequences.lengths - 3).sum()


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data sets in {REAL} (set WEFT_DATA)")
def test_beauty_has_the_published_counts() -> None:
    domain = load_domain(REAL / "amazon-beauty-2014")
    report = inspect_domain(domain)
    assert (report.users, report.items, report.interactions) == (22_363, 12_101, 198_502)
    assert report.users_with_ties == tied_users(domain) == 19_586
    assert len(as_dict(domain)) == 22_363
