"""Written dates -> Unix seconds and fractions: ISO 8601, and any format that a person names."""

from __future__ import annotations

import re

import polars as pl

from weft.errors import SettingError

ISO = (
    r"^(\d{4}-\d{2}-\d{2}|\d{8})"
    r"(?:[Tt ]\s*(\d{2}):?(\d{2})(?::?(\d{2})(?:[.,](\d+))?)?"
    r"\s*(Z|z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)?)?$"
)
WRITTEN = r"^\s*\d{4}-\d{2}-\d{2}([Tt ]|$)"  # what is surely ISO, not a number
DIRECTIVE = re.compile(r"%-?(.)")
KNOWN = "YymdejHIMSpbBaAzfTFR"
MONTHS, DAYS = "mbBjF", "dejF"
Read = tuple[pl.Series, pl.Series | None]  # [n] Int64 seconds or null, [n] Int64 attoseconds


def is_iso(column: pl.Series) -> bool:
    """Is the first time of a column of text an ISO 8601 date?"""
    if column.dtype != pl.String:
        return False
    first = next((text for text in column.head(100).drop_nulls() if text.strip()), "")
    return re.match(WRITTEN, first) is not None


def read_iso(column: pl.Series) -> Read:
    """Dates and date-times of ISO 8601, seconds or not, any number of decimals.

    A time without a zone is UTC. What is no such time is null.
    """
    parts = column.str.strip_chars().str.extract_groups(ISO).struct.unnest()
    parts.columns = ["date", "hour", "minute", "second", "decimals", "zone"]
    number = [
        pl.col(c).cast(pl.Int64, strict=False).fill_null(0) for c in ("hour", "minute", "second")
    ]
    sign = pl.when(pl.col("zone").str.starts_with("-")).then(-1).otherwise(1)
    digits = pl.col("zone").str.replace_all(r"\D", "").str.pad_end(4, "0")
    minutes = digits.str.slice(0, 2).cast(pl.Int64) * 60 + digits.str.slice(2, 2).cast(pl.Int64)
    day = pl.col("date").str.replace_all("-", "", literal=True).str.to_date("%Y%m%d", strict=False)
    clock = (number[0] < 24) & (number[1] < 60) & (number[2] <= 60)
    seconds = (
        day.cast(pl.Int64) * 86_400
        + number[0] * 3_600 + number[1] * 60 + number[2]
        - (sign * minutes * 60).fill_null(0)
    )  # fmt: skip
    read = parts.select(pl.when(clock).then(seconds).alias("seconds"))["seconds"]
    if parts["decimals"].null_count() == len(column):
        return read, None
    return read, parts["decimals"].str.pad_end(18, "0").str.slice(0, 18).cast(pl.Int64)


def read_format(column: pl.Series, time_format: str) -> Read:
    """Times in a format of Python's `strptime` (English names of months; UTC unless `%z`).

    Parts that the format lacks are the first month, day, minute. Raises `SettingError` if the format
    has no year or a directive that is not read.
    """
    wanted = DIRECTIVE.findall(time_format.replace("%%", ""))
    unknown = [one for one in wanted if one not in KNOWN]
    if unknown or not {"Y", "y", "F"} & set(wanted):
        what = f"weft does not read %{unknown[0]}" if unknown else "it names no year"
        raise SettingError(
            f"time format '{time_format}': {what}; a format is like %d/%m/%Y %H:%M, of"
            f" {' '.join('%' + one for one in KNOWN)}"
        )
    half = {"I", "p"} & set(wanted)
    if half and (len(half) == 1 or "H" in wanted):
        raise SettingError(
            f"time format '{time_format}': hours up to 12 are %I with %p (AM or PM), hours up to 23"
            " are %H without it"
        )
    text = column.str.strip_chars()
    if "." not in time_format:
        text = text.str.replace(r"\.0+$", "")  # 20140723.0, as a column of floats has it
    pattern = time_format.strip().replace("%-", "%").replace(".%f", "%.f")
    for missing, directive, first in (
        (not set(wanted) & set(MONTHS), "%m", "01"),
        (not set(wanted) & set(DAYS), "%d", "01"),
        (bool({"H", "I"} & set(wanted)) and "M" not in wanted, "%M", "00"),
    ):
        if missing:
            text, pattern = text + f" {first}", f"{pattern} {directive}"
    widths = ("3", "6", "9") if re.search(r"(?<!\.)%f", pattern.replace("%.f", "")) else ("",)
    try:
        tries = [
            text.str.to_datetime(
                re.sub(r"%f", f"%{width}f", pattern) if width else pattern,
                strict=False,
                time_unit="ns",
            )
            for width in widths
        ]
    except pl.exceptions.PolarsError as error:
        raise SettingError(f"time format '{time_format}': {str(error).splitlines()[0]}") from None
    naive = [one.dt.replace_time_zone(None) if _zone(one) else one for one in tries]
    nanoseconds = pl.select(pl.coalesce(*naive)).to_series().cast(pl.Int64)
    fraction = (nanoseconds % 1_000_000_000) * 1_000_000_000
    return nanoseconds // 1_000_000_000, fraction if fraction.sum() else None


def _zone(times: pl.Series) -> bool:
    return isinstance(times.dtype, pl.Datetime) and times.dtype.time_zone is not None


def format_hint(column: pl.Series) -> str:
    """A hint for a column of unreadable written times: the option that reads them."""
    texts = [text.strip() for text in column.cast(pl.String).drop_nulls() if text.strip()]
    texts = [text for text in texts if any(one.isdigit() for one in text)]
    if not texts or texts[0][0] in "[({":
        return ""
    for text in texts[:100]:
        if re.match(WRITTEN, text):
            return "; written dates are read with --time-unit iso"
        if re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?|\d+,\d+", text):
            return "; weft reads no numbers with commas in them (write 1388534400.9)"
    shape = re.compile(r"(\d{1,4})([./-])(\d{1,2})\2(\d{1,4})(.*)")
    matches = [match.groups() for match in map(shape.fullmatch, texts) if match]
    if not matches:
        return "; name the format of written times, such as --time-format '%d %b %Y %H:%M'"
    first, mark, _, last, clock = matches[0]
    tail = _clock(clock)
    if len(first) == 4:
        return f"; --time-format '%Y{mark}%m{mark}%d{tail}' reads such times"
    year = "%Y" if len(last) == 4 else "%y"
    day_first, month_first = (
        f"--time-format '{mark.join(order)}{tail}'"
        for order in (("%d", "%m", year), ("%m", "%d", year))
    )
    if any(int(one[0]) > 12 for one in matches):
        return f"; the day comes first there: {day_first}"
    if any(int(one[2]) > 12 for one in matches):
        return f"; the month comes first there: {month_first}"
    return f"; name what comes first, the day ({day_first}) or the month ({month_first})"


def _clock(text: str) -> str:
    """The format of the time of day in what follows a date."""
    match = re.fullmatch(r"([T ]*)\d{1,2}:\d{2}(:\d{2})?([.]\d+)?( ?)([AaPp][Mm])?", text)
    if not match:
        return ""
    lead, seconds, decimals, space, half = match.groups()
    hour = "%I" if half else "%H"
    return (
        f"{lead}{hour}:%M{':%S' if seconds else ''}{'.%f' if decimals else ''}"
        f"{space + '%p' if half else ''}"
    )
