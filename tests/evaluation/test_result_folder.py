"""A result's folder that its protocol can't have made is refused, by file, row and value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from worlds import old_result, result

from weft.artifacts.atomic import read_json, write_json
from weft.errors import WeftError
from weft.evaluation.result import Result

FILE, PROTOCOL = "ranks.parquet", "protocol.json"


def change(folder: Path, column: str, row: int, value: Any) -> None:
    frame = pl.read_parquet(folder / FILE)
    values = frame[column].to_list()
    values[row] = value
    frame.with_columns(pl.Series(column, values, dtype=frame.schema[column])).write_parquet(
        folder / FILE
    )


def say(folder: Path, **changes: Any) -> None:
    write_json(folder / PROTOCOL, read_json(folder / PROTOCOL) | changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    result([1.0, 2.5, 30.0], [1.0, 40.0, 99.0], items=99).save(tmp_path / "new")
    return tmp_path / "new"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """As an older weft wrote it: no format, no hash, no size of the catalogue."""
    old_result([1.0, 2.5, 30.0], [1.0, 40.0, 99.0]).save(tmp_path / "old")
    said = read_json(tmp_path / "old" / PROTOCOL)
    for name in ("format", "hash", "versions", "items"):
        del said[name]
    write_json(tmp_path / "old" / PROTOCOL, said)
    return tmp_path / "old"


@pytest.mark.parametrize("value", [np.nan, 0.0, -3.0, 1e300, 31.0, 2.25, np.inf, None])
@pytest.mark.parametrize("column", ["rank_candidates", "rank_full"])
def test_ranks_that_cannot_be_are_refused(old: Path, column: str, value: float | None) -> None:
    assert Result.load(old).ranks(True).tolist() == [1.0, 40.0, 99.0]
    if (column, value) == ("rank_full", 31.0):
        value = -0.5  # the 31st of a whole catalogue may well be
    change(old, column, 1, value)
    with pytest.raises(WeftError) as caught:
        Result.load(old)
    text = str(caught.value)
    assert f"{old / FILE}: row 2 (user 'u0001'): {column} is {value}; " in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("above_candidates", -1),
        ("above_candidates", 30),  # of 30, 29 others at most
        ("level_candidates", -3),
        ("level_candidates", 29),  # one stands above: 28 at most
        ("above_full", 99),
        ("above_full", 2**62),
        ("level_full", 2**62),
        ("level_full", None),
        ("position", 0),
        ("user_id", None),
        ("item_id", None),
    ],
)
def test_places_that_cannot_be_are_refused(folder: Path, column: str, value: Any) -> None:
    change(folder, column, 1, value)
    with pytest.raises(WeftError, match=rf"{FILE}: row 2 \(user '\w+'\): {column} is {value}; "):
        Result.load(folder)


def test_ranks_that_could_be_and_are_not_those_measured_are_refused(folder: Path) -> None:
    """Everyone first: allowed by the protocol, and not what was written."""
    change(folder, "above_candidates", 2, 0)
    with pytest.raises(WeftError, match="they were changed or damaged, so measure again"):
        Result.load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 8}, "changed or damaged"),
        ({"candidates": {"drawn": 9, "by": "uniform"}}, "row 3 .*: above_candidates is 29"),
        ({"items": 50}, r"row 3 .*: above_full is 98"),
        ({"users": 2}, "has 3 users, and protocol.json says 2"),
        ({"users": 0}, "users: must be at least"),
        ({"hash": None}, "hash is missing"),
        ({"format": 3}, "format is 3, and this weft reads 2 and older"),
        ({"format": None}, "format is missing"),
        ({"items": None}, "items is missing"),
        ({"ties": "expected rank"}, r"needs the columns .*rank_full"),
        ({"full": False}, "row 1 .*: above_full is 0; .* was not made"),
        ({"candidates": None}, "row 1 .*: above_candidates is 0; .* was not made"),
        ({"versions": [1]}, "versions must be an object"),
    ],
)
def test_a_protocol_that_is_not_the_ranks_own_is_refused(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    say(folder, **changes)
    with pytest.raises(WeftError, match=message):
        Result.load(folder)


def test_integers_are_not_read_from_other_columns(folder: Path) -> None:
    frame = pl.read_parquet(folder / FILE).with_columns(pl.col("above_full").cast(pl.Float64))
    frame.write_parquet(folder / FILE)
    with pytest.raises(WeftError, match=r"needs the columns .*above_full \(Int64\)"):
        Result.load(folder)


def test_rows_in_another_order_are_the_same_result(folder: Path) -> None:
    before = Result.load(folder)
    pl.read_parquet(folder / FILE).reverse().write_parquet(folder / FILE)
    assert Result.load(folder).frame.equals(before.frame)


def test_a_result_says_what_made_it(folder: Path, old: Path) -> None:
    versions = Result.load(folder).versions
    assert {"weft", "python", "torch", "numpy"} <= set(versions)
    assert versions["numpy"] == np.__version__
    assert Result.load(old).versions == {}
