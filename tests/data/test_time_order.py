"""Interactions are ordered by the whole time, whatever its unit and form, and by row where it ties."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from data_logs import as_dict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weft.data.filters import Filters, apply_filters
from weft.data.folder import load_domain, save_domain
from weft.data.ingest import ingest, read_domain
from weft.data.raw import Table
from weft.data.source import Source
from weft.data.times import read_times
from weft.settings import validate

T = 1_388_534_400  # 2014-01-01
UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def order(times: list[Fraction]) -> list[str]:
    """The items i0, i1, … in the order of their times; equal times stay in order."""
    return [f"i{n}" for n in sorted(range(len(times)), key=lambda n: times[n])]


def items(path: Path, **options: Any) -> list[str]:
    domain = read_domain(validate(Source, {"interactions": path, "untitled": True, **options}))[0]
    return [item for item, _ in as_dict(domain)["u"]]


def write_csv(path: Path, times: list[str]) -> Path:
    rows = "".join(f'u,i{n},"{time}"\n' for n, time in enumerate(times))
    path.write_text("user_id,item_id,timestamp\n" + rows)
    return path


def write_jsonl(path: Path, times: list[Any]) -> Path:
    rows = [{"user_id": "u", "item_id": f"i{n}", "timestamp": t} for n, t in enumerate(times)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(path: Path, times: pl.Series) -> Path:
    names = [f"i{n}" for n in range(len(times))]
    pl.DataFrame({"user_id": ["u"] * len(times), "item_id": names, "timestamp": times}).write_parquet(path)  # fmt: skip
    return path


COUNTS = st.lists(st.integers(0, 3), min_size=2, max_size=5)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(ticks=COUNTS, unit=st.sampled_from(["ms", "us", "ns"]), second=st.integers(0, 1))
def test_integers_of_any_unit(tmp_path: Path, ticks: list[int], unit: str, second: int) -> None:
    numbers = [(T + n % 2 * second) * UNITS[unit] + tick for n, tick in enumerate(ticks)]
    expected = order([Fraction(number) for number in numbers])
    assert items(write_csv(tmp_path / "t.csv", list(map(str, numbers))), time_unit=unit) == expected
    assert items(write_jsonl(tmp_path / "t.jsonl", numbers), time_unit=unit) == expected
    assert items(write_parquet(tmp_path / "t.parquet", pl.Series(numbers)), time_unit=unit) == expected  # fmt: skip


DECIMALS = st.lists(
    st.sampled_from(["", ".1", ".9", ".10", ".123456789012345678", ".123456789012345679", ".0"]),
    min_size=2, max_size=5,
)  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(decimals=DECIMALS, unit=st.sampled_from(list(UNITS)))
def test_decimals_in_text(tmp_path: Path, decimals: list[str], unit: str) -> None:
    digits = 19 - len(str(UNITS[unit]))  # kept to 1e-18 seconds
    texts = [f"{T * UNITS[unit]}{one[: digits + 1]}" for one in decimals]
    expected = order([Fraction(text) for text in texts])
    assert items(write_csv(tmp_path / "t.csv", texts), time_unit=unit) == expected


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(
    parts=st.lists(
        st.tuples(
            st.sampled_from(["", ".5", ".25", ",125", ".123456789"]),
            st.sampled_from([0, 60, -330]),
            st.booleans(),
        ),
        min_size=2,
        max_size=5,
    )
)
def test_iso_with_fractions_and_zones(tmp_path: Path, parts: list[tuple[str, int, bool]]) -> None:
    texts, times = [], []
    for decimals, minutes, plain in parts:
        moment = datetime.fromtimestamp(T, timezone(timedelta(minutes=minutes)))
        text = moment.replace(tzinfo=None).isoformat() + decimals
        zone = "" if plain and not minutes else moment.isoformat()[19:]
        texts.append(text.replace("T", " ") + zone if plain else text + zone)
        times.append(Fraction("0" + decimals.replace(",", ".")) if decimals else Fraction(0))
    for unit in ({}, {"time_unit": "iso"}):
        assert items(write_csv(tmp_path / "t.csv", texts), **unit) == order(times)


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_dates_of_parquet(tmp_path: Path, unit: Any) -> None:
    numbers = [T * UNITS[unit] + tick for tick in (9, 1, 9, 0)]
    times = pl.Series(numbers).cast(pl.Datetime(unit))
    for one in (times, times.dt.replace_time_zone("UTC")):
        assert items(write_parquet(tmp_path / "t.parquet", one)) == ["i3", "i1", "i0", "i2"]


def test_floats(tmp_path: Path) -> None:
    times = [T + 0.9, T + 0.1, T + 0.5, T + 0.1]
    expected = ["i1", "i3", "i2", "i0"]
    assert items(write_parquet(tmp_path / "t.parquet", pl.Series(times))) == expected
    assert items(write_jsonl(tmp_path / "t.jsonl", times)) == expected
    assert items(write_jsonl(tmp_path / "t.jsonl", [t * 1000 for t in times]), time_unit="ms") == expected  # fmt: skip


def test_a_format_with_fractions(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", ["01.01.2014 00:00:00.9", "01.01.2014 00:00:00.100"])
    assert items(path, time_format="%d.%m.%Y %H:%M:%S.%f") == ["i1", "i0"]
    path = write_csv(tmp_path / "t.csv", ["20140101000000900", "20140101000000100"])
    assert items(path, time_format="%Y%m%d%H%M%S%f") == ["i1", "i0"]


def test_the_order_stays_through_the_folder_and_the_filters(tmp_path: Path) -> None:
    millis = [900, 100, 500, 1700, 1200]
    path = write_csv(tmp_path / "t.csv", [str(T * 1000 + one) for one in millis])
    source = Source(interactions=path, time_unit="ms", untitled=True)
    ingest(source, tmp_path / "d")
    loaded = load_domain(tmp_path / "d")
    expected = [("i1", T), ("i2", T), ("i0", T), ("i4", T + 1), ("i3", T + 1)]
    assert as_dict(loaded)["u"] == expected
    save_domain(loaded, tmp_path / "again")
    assert load_domain(tmp_path / "again").hash == loaded.hash
    for filters, kept in (
        ({"maximum_length": 3}, expected[2:]),
        ({"time_from": T + 1}, expected[3:]),
        ({"one_per_day": "first"}, expected[:1]),
        ({"distinct": True}, expected),
    ):
        assert as_dict(apply_filters(loaded, Filters.model_validate(filters))[0])["u"] == kept


@pytest.mark.parametrize(
    ("text", "unit", "seconds", "fraction"),
    [
        ("1388534400.5", "s", T, 5 * 10**17), ("1388534400999.25", "ms", T, 99925 * 10**13),
        ("-1.5", "s", -2, 5 * 10**17), ("1.3885344005e9", "s", T, 5 * 10**17), ("1388534400.", "s", T, 0),
    ],
)  # fmt: skip
def test_decimals_are_exact(text: str, unit: Any, seconds: int, fraction: int) -> None:
    table = Table(Path("t.csv"), pl.LazyFrame())
    times = read_times(pl.Series([text, "1.5"]), unit, None, table)
    assert times.fraction is not None
    assert (times.seconds[0], times.fraction[0]) == (seconds, fraction)
    assert datetime.fromtimestamp(T, UTC).year == 2014
