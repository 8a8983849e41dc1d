"""What times mean: calendar numbers, units, written formats, odd years."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from data_logs import T0, as_dict, notes, refused, write_pair

from weft.data.folder import load_domain, save_domain
from weft.data.ingest import read_domain
from weft.data.source import Source
from weft.data.time_checks import odd_times
from weft.errors import WeftError
from weft.settings import validate


def seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def write(path: Path, times: list[Any]) -> Path:
    rows = "".join(f"u{n},i{n},{time},Title\n" for n, time in enumerate(times))
    path.write_text("user_id,item_id,timestamp,title\n" + rows)
    return path


def read(path: Path, **options: Any) -> list[int]:
    """The times in row order (each row is a user of its own)."""
    domain = read_domain(validate(Source, {"interactions": path, **options}))[0]
    return domain.sequences.time.tolist()


CALENDAR = [
    (["20140101", "20140723"], "%Y%m%d", "2014-01-01", "2014-07-23"),
    (["201401", "201412"], "%Y%m", "2014-01-01", "2014-12-01"),
    (["2014", "1999"], "%Y", "2014-01-01", "1999-01-01"),
    (["2014010108", "2014072323"], "%Y%m%d%H", "2014-01-01T08:00", "2014-07-23T23:00"),
    (["201401010826", "201407232359"], "%Y%m%d%H%M", "2014-01-01T08:26", "2014-07-23T23:59"),
    (["20140101082601", "20140723235959"], "%Y%m%d%H%M%S", "2014-01-01T08:26:01", "2014-07-23T23:59:59"),
    (["20140101082601250", "20140723235959999"], "%Y%m%d%H%M%S%f", "2014-01-01T08:26:01", "2014-07-23T23:59:59"),
]  # fmt: skip


@pytest.mark.parametrize(("times", "form", "first", "second"), CALENDAR)
@pytest.mark.parametrize("unit", [None, "s", "ms", "us"])
def test_calendar_numbers_are_refused_with_the_format_that_reads_them(
    tmp_path: Path, times: list[str], form: str, first: str, second: str, unit: str | None
) -> None:
    path = write(tmp_path / "log.csv", times)
    message = refused(path, time_unit=unit)
    assert message.startswith(
        f"log.csv, line 2: column 'timestamp' = {times[0]} is a date in digits"
    )
    assert f"--time-format '{form}'" in message
    assert read(path, time_format=form) == [seconds(first), seconds(second)]


def test_calendar_numbers_in_any_format_of_file(tmp_path: Path) -> None:
    log = [{"user_id": "u", "item_id": "i", "title": "A", "timestamp": 20140101}]
    (tmp_path / "log.jsonl").write_text(json.dumps(log[0]))
    assert "date in digits" in refused(tmp_path / "log.jsonl")
    pl.DataFrame(log).write_parquet(tmp_path / "log.parquet")
    assert "date in digits" in refused(tmp_path / "log.parquet")
    pl.DataFrame(log).cast({"timestamp": pl.Float64}).write_parquet(tmp_path / "log.parquet")
    assert "date in digits" in refused(tmp_path / "log.parquet")
    write_pair(tmp_path / "pair", [("u", "i", 20140101)])
    with pytest.raises(WeftError, match="date in digits"):
        load_domain(tmp_path / "pair")


def test_calendar_numbers_with_decimals(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", ["20140101.0", "20140723.0"])
    assert "date in digits" in refused(path)
    assert read(path, time_format="%Y%m%d") == [seconds("2014-01-01"), seconds("2014-07-23")]
    assert "date in digits" in refused(path, time_unit="days")


def test_a_broken_row_among_calendar_numbers_does_not_hide_them(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", ["0", "", *["20140101"] * 40, "99999999"])
    assert "line 4: column 'timestamp' = 20140101 is a date in digits" in refused(path)
    assert "date in digits" in refused(path, bad_rows="drop")


def test_other_numbers_are_no_dates(tmp_path: Path) -> None:
    for times in ([20140101, 20141301], [T0, T0 + 5], [0, 1, 2014], [20140101000, 20140101001]):
        read(write(tmp_path / "log.csv", times))


def test_weft_s_own_order_index_may_look_like_years(tmp_path: Path) -> None:
    domain = load_domain(write_pair(tmp_path / "in", [("u", f"i{n}", n) for n in range(2100)]))
    from weft.data.filters import Filters, apply_filters

    late, _ = apply_filters(domain, Filters(maximum_length=100))
    assert late.sequences.time.min() == 2000
    save_domain(late, tmp_path / "late")
    assert load_domain(tmp_path / "late").hash == late.hash


@pytest.mark.parametrize(
    ("times", "unit", "words"),
    [
        ([T0 * 1000, T0 * 1000 + 1], None, "is beyond the year 9999 if it counts s; is the time unit another? (--time-unit ms)"),
        ([T0 * 10**6, T0 * 10**6], "s", "(--time-unit us)"),
        ([T0 * 10**9, T0 * 10**9], "s", "(--time-unit ns)"),
        ([T0 * 10**6, T0 * 10**6], "ms", "is beyond the year 9999 if it counts ms"),
        ([T0, T0 + 1], "ms", "lies in early 1970 if it counts ms, like all other times there"),
        ([T0 * 1000, T0 * 1000], "us", "lies in early 1970 if it counts us"),
        (["41640.5", "41641.25"], None, "is it a number of days (--time-unit days), or of Excel's days (--time-unit excel)?"),
    ],
)  # fmt: skip
def test_another_unit_is_refused_even_where_bad_rows_are_dropped(
    tmp_path: Path, times: list[Any], unit: str | None, words: str
) -> None:
    path = write(tmp_path / "log.csv", times)
    for bad_rows in ("fail", "drop"):
        assert words in refused(path, time_unit=unit, bad_rows=bad_rows)


def test_dates_made_from_numbers_of_another_unit_are_refused(tmp_path: Path) -> None:
    times = pl.Series([T0, T0 + 1]).cast(pl.Datetime("ns"))  # seconds taken for nanoseconds
    log = pl.DataFrame({"user_id": ["u", "v"], "item_id": ["i", "j"], "timestamp": times})
    log.write_parquet(tmp_path / "log.parquet")
    message = refused(tmp_path / "log.parquet", untitled=True)
    assert "lies in early 1970" in message


def test_days(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", ["16071", "16071.25"])
    assert read(path, time_unit="days") == [seconds("2014-01-01"), seconds("2014-01-01T06:00")]
    path = write(tmp_path / "log.csv", ["41640.351388888892", "41640"])
    assert read(path, time_unit="excel") == [seconds("2014-01-01T08:26"), seconds("2014-01-01")]
    whole = write(tmp_path / "log.csv", ["16071", "16072"])
    assert "kept as an order of rows" in notes(whole)[0]
    assert "--time-unit days" in notes(whole)[0]


def test_odd_years_are_said_with_their_first_row(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", [T0, 100_000_000, 5_000_000_000, 0])
    assert read(path) == [T0, 100_000_000, 5_000_000_000, 0]
    early, late = notes(path)
    assert "2 of 4 times lie before 1990 (the first: line 3, 1973-03-03)" in early
    assert "1 of 4 times lie in the future (the first: line 4, 2128-06-11)" in late
    assert notes(write(tmp_path / "log.csv", [T0])) == ()


def test_a_day_ahead_is_no_future() -> None:
    times = pl.Series([T0, T0 + 86_400]).to_numpy()
    assert odd_times(times, str, now=T0) == []
    assert "1 of 2 times lie in the future" in odd_times(times, str, now=T0 - 1)[0]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("2014-01-01T08:26", "2014-01-01T08:26"), ("2014-01-01 08:26", "2014-01-01T08:26"),
        ("2014-01-01T08:26Z", "2014-01-01T08:26"), ("2014-01-01 08:26+01:00", "2014-01-01T07:26"),
        ("2014-01-01 08:26:09 UTC", "2014-01-01T08:26:09"), ("2014-01-01T08:26:09.5-0330", "2014-01-01T11:56:09"),
        ("2014-01-01", "2014-01-01"), ("2014-01-01T082609Z", "2014-01-01T08:26:09"),
    ],
)  # fmt: skip
def test_iso_forms_with_and_without_the_option(tmp_path: Path, written: str, expected: str) -> None:
    path = write(tmp_path / "log.csv", [written])
    assert read(path) == read(path, time_unit="iso") == [seconds(expected)]


@pytest.mark.parametrize("written", ["2014-02-30", "2014-01-01T25:00", "2014-01-01T08:61", "2014-1-1", "2014-01-01 08:26 CET"])  # fmt: skip
def test_what_is_no_iso_time_is_refused(tmp_path: Path, written: str) -> None:
    path = write(tmp_path / "log.csv", ["2014-01-01", written])
    assert f"line 3: column 'timestamp' = '{written}' is not a time" in refused(path)


@pytest.mark.parametrize(
    ("written", "form", "expected"),
    [
        ("12/1/2010 8:26", "%m/%d/%Y %H:%M", "2010-12-01T08:26"),
        ("12/1/2010 8:26", "%d/%m/%Y %H:%M", "2010-01-12T08:26"),
        ("01.12.2010 08:26:05", "%d.%m.%Y %H:%M:%S", "2010-12-01T08:26:05"),
        ("1.2.14", "%d.%m.%y", "2014-02-01"),
        ("Jan 5 2014 08:26 PM", "%b %d %Y %I:%M %p", "2014-01-05T20:26"),
        ("2010/12/01 8", "%Y/%m/%d %H", "2010-12-01T08:00"),
        ("2014-01-01 08:26:00 +0100", "%Y-%m-%d %H:%M:%S %z", "2014-01-01T07:26"),
        ("5/1/2014", "%-d/%-m/%Y", "2014-01-05"),
    ],
)  # fmt: skip
def test_formats(tmp_path: Path, written: str, form: str, expected: str) -> None:
    path = write(tmp_path / "log.csv", [written])
    assert read(path, time_format=form) == [seconds(expected)]


def test_a_time_that_is_not_of_the_format_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", ["13/01/2010 08:26", "01/13/2010 08:26"])
    message = refused(path, time_format="%d/%m/%Y %H:%M")
    assert "line 3: column 'timestamp' = '01/13/2010 08:26' is not a time of the format" in message
    for form, words in (("%H:%M", "names no year"), ("%Y %Q", "does not read %Q"), ("dd/mm/yyyy", "names no year")):  # fmt: skip
        assert words in refused(path, time_format=form)
    assert "set time_unit or time_format, not both" in refused(
        path, time_format="%Y", time_unit="s"
    )


def test_the_wrong_order_of_day_and_month_does_not_drop_most_of_a_log(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", [f"{day:02}/01/2010" for day in range(1, 32)])
    message = refused(path, time_format="%m/%d/%Y", bad_rows="drop")
    assert "line 14: column 'timestamp' = '13/01/2010' is not a time of the format" in message
    assert "the day comes first there: --time-format '%d/%m/%Y'" in message
    assert len(read(path, time_format="%d/%m/%Y")) == 31


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (["01/12/2010 08:26", "02/12/2010 08:26"], "name what comes first, the day (--time-format '%d/%m/%Y %H:%M') or the month (--time-format '%m/%d/%Y %H:%M')"),
        (["01/12/2010 08:26", "13/12/2010 08:26"], "the day comes first there: --time-format '%d/%m/%Y %H:%M'"),
        (["01/12/2010 8:26 PM", "12/31/2010 8:26 AM"], "the month comes first there: --time-format '%m/%d/%Y %I:%M %p'"),
        (["01.12.2010"], "--time-format '%d.%m.%Y'"), (["2010/12/01"], "--time-format '%Y/%m/%d'"),
        (["1,388,534,400"], "weft reads no numbers with commas in them"), (["5 Jan 2014"], "--time-format '%d %b %Y %H:%M'"),
    ],
)  # fmt: skip
def test_the_remedy_for_written_times_is_named(
    tmp_path: Path, times: list[str], words: str
) -> None:
    path = write(tmp_path / "log.csv", [f'"{time}"' for time in times])
    assert words in refused(path)


def test_iso_times_under_a_unit_of_numbers_name_the_option(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", ["2014-01-01"])
    assert "--time-unit iso" in refused(path, time_unit="s")
    log = read_domain(Source(interactions=path))[0]
    assert as_dict(log) == {"u0": [("i0", seconds("2014-01-01"))]}
