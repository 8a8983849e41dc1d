"""`weft data ingest`: a log of any format -> a domain folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from weft.cli.data_tables import print_ingest, print_json, print_notes

READ, KEEP, WRITE = "What to read", "What to keep", "What to write"


def ingest_command(
    source: Annotated[
        Path,
        typer.Argument(
            help="The file of interactions (clicks, ratings, reviews), or a folder that has it."
        ),
    ],
    destination: Annotated[Path, typer.Argument(help="The domain folder to write.")],
    items: Annotated[
        Path | None,
        typer.Option(
            help="The file of items with their titles; its format follows from its name. Not needed where it lies beside the source (parquet, recbole, movielens) or where the source has a column 'title'.",
            rich_help_panel=READ,
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            help="The source's format, one of those that 'weft data formats' lists. Unset: it follows from the file's name.",
            rich_help_panel=READ,
        ),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="OURS=THEIRS: which column of the source is user_id, item_id, timestamp, rating (or title, if there is no items file). May be repeated.",
            rich_help_panel=READ,
        ),
    ] = None,
    item_column: Annotated[
        list[str] | None,
        typer.Option(
            help="OURS=THEIRS: which column of the items file is item_id, title, … May be repeated.",
            rich_help_panel=READ,
        ),
    ] = None,
    header: Annotated[
        bool,
        typer.Option(
            help="Whether the first line of CSV or TSV names the columns. Without it they are called 1, 2, …",
            rich_help_panel=READ,
        ),
    ] = True,
    separator: Annotated[
        str | None,
        typer.Option(
            help="What separates the fields of CSV, TSV or RecBole files: one character such as ';', or 'tab'. Unset: the format's.",
            rich_help_panel=READ,
        ),
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(
            help="Encoding of text files, such as latin-1, cp1252 or utf-16. Unset: UTF-8.",
            rich_help_panel=READ,
        ),
    ] = None,
    quoting: Annotated[
        Literal["csv", "none"],
        typer.Option(
            help="Whether quotes enclose fields of CSV or TSV, or are characters like any ('none').",
            rich_help_panel=READ,
        ),
    ] = "csv",
    list_separator: Annotated[
        str | None,
        typer.Option(
            help="What separates the items of one cell, where each row is a list of items, such as ',' or 'space'. Lists in brackets need none.",
            rich_help_panel=READ,
        ),
    ] = None,
    time_unit: Annotated[
        Literal["s", "ms", "us", "ns", "days", "excel", "iso", "order"] | None,
        typer.Option(
            help="What the times count since 1970; 'excel': days as spreadsheets count them; 'iso': written dates such as 2014-07-23T10:15:00; 'order': there are no times, the rows are in order. Unset: seconds, or ISO dates where the times are written so.",
            rich_help_panel=READ,
        ),
    ] = None,
    time_format: Annotated[
        str | None,
        typer.Option(
            help="The format of written times, such as '%d/%m/%Y %H:%M' or '%Y%m%d' (as Python's strptime; UTC).",
            rich_help_panel=READ,
        ),
    ] = None,
    unlisted: Annotated[
        Literal["error", "add", "drop"],
        typer.Option(
            help="An interaction whose item is not in the items file: stop, add the item without text, or drop the interaction.",
            rich_help_panel=READ,
        ),
    ] = "error",
    bad_rows: Annotated[
        Literal["fail", "drop"],
        typer.Option(
            help="Rows that can't be read (no user, no item, no time, too many fields): stop at the first, or drop them and count them.",
            rich_help_panel=READ,
        ),
    ] = "fail",
    untitled: Annotated[
        bool,
        typer.Option(
            "--untitled",
            help="Go on although no item has a title. Only recommenders that know items by their ids can use such a domain.",
            rich_help_panel=READ,
        ),
    ] = False,
    minimum_rating: Annotated[
        float | None, typer.Option(help="Leave out interactions rated lower.", rich_help_panel=KEEP)
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            help="COLUMN=TEXT: keep the items whose column has exactly this text. May be repeated.",
            rich_help_panel=KEEP,
        ),
    ] = None,
    titled: Annotated[
        bool,
        typer.Option("--titled", help="Leave out items without a title.", rich_help_panel=KEEP),
    ] = False,
    time_from: Annotated[
        str | None,
        typer.Option(
            help="First time to keep: a date (2014-01-01, UTC) or Unix seconds.",
            rich_help_panel=KEEP,
        ),
    ] = None,
    time_until: Annotated[
        str | None, typer.Option(help="First time not to keep any more.", rich_help_panel=KEEP)
    ] = None,
    one_per_day: Annotated[
        Literal["first", "random"] | None,
        typer.Option(help="Keep one interaction of each user and day.", rich_help_panel=KEEP),
    ] = None,
    distinct: Annotated[
        bool,
        typer.Option(
            "--distinct",
            help="Keep a user's first interaction with an item, no later one.",
            rich_help_panel=KEEP,
        ),
    ] = False,
    k_core: Annotated[
        str | None,
        typer.Option(
            help="Repeat until every user and every item has so many interactions: 5, or 5,3 for users,items.",
            rich_help_panel=KEEP,
        ),
    ] = None,
    minimum_length: Annotated[
        int | None,
        typer.Option(help="Leave out users with fewer interactions.", rich_help_panel=KEEP),
    ] = None,
    maximum_length: Annotated[
        int | None,
        typer.Option(help="Keep only so many latest interactions of a user.", rich_help_panel=KEEP),
    ] = None,
    sample_users: Annotated[
        int | None, typer.Option(help="Draw so many users at random.", rich_help_panel=KEEP)
    ] = None,
    unused_items: Annotated[
        Literal["keep", "drop"] | None,
        typer.Option(
            help="Items that no longer occur. Unset: --k-core drops them, the rest keeps them.",
            rich_help_panel=KEEP,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random draws.", rich_help_panel=KEEP)] = 0,
    name: Annotated[
        str | None,
        typer.Option(help="The domain's name. Unset: the folder's.", rich_help_panel=WRITE),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Replace the folder if it is there.", rich_help_panel=WRITE),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Turn a log of any format into a domain folder.

    A domain folder has interactions.parquet, items.parquet and domain.json; it is written whole
    or not at all. The options under "What to keep" apply in the order of the list.

    \b
    Examples:
      weft data ingest clicks.csv shop --items products.csv \\
        --column user_id=customer --column item_id=sku --column timestamp=when \\
        --item-column item_id=sku --item-column title=name --time-unit iso
      weft data ingest ml-1m/ movies --minimum-rating 4 --k-core 5
      weft data ingest export.csv shop --separator ';' --encoding latin-1 \\
        --time-format '%d.%m.%Y %H:%M' --column title=product_name --bad-rows drop
      weft data ingest Office_Products_5.json.gz office --format amazon-2018 \\
        --items meta_Office_Products.json.gz --titled
    """  # fmt: skip
    from weft.artifacts.atomic import check_parents
    from weft.data import ingest as run
    from weft.data.filters import Filters
    from weft.data.source import Source
    from weft.settings import validate

    settings = {
        "format": format, "interactions": source, "items": items, "columns": _pairs(column),
        "item_columns": _pairs(item_column), "header": header, "separator": separator,
        "encoding": encoding, "quoting": quoting, "list_separator": list_separator,
        "time_unit": time_unit, "time_format": time_format, "minimum_rating": minimum_rating,
        "unlisted": unlisted, "bad_rows": bad_rows, "untitled": untitled,
    }  # fmt: skip
    filters = {
        "where": _pairs(where), "titled": titled, "time_from": time_from,
        "time_until": time_until, "one_per_day": one_per_day, "distinct": distinct, "k_core": _core(k_core),
        "minimum_length": minimum_length, "maximum_length": maximum_length,
        "sample_users": sample_users, "unused_items": unused_items, "seed": seed,
    }  # fmt: skip
    check_parents(destination)  # before the work, not after it
    report = run.ingest(
        validate(Source, settings), destination,
        name=name, filters=validate(Filters, filters), replace=replace,
    )  # fmt: skip
    print_json(report) if json else print_ingest(report)
    print_notes(report)


def _pairs(texts: list[str] | None) -> dict[str, str]:
    from weft.errors import SettingError

    pairs: dict[str, str] = {}
    for text in texts or []:
        left, equals, right = text.partition("=")
        if not (left and equals and right):
            raise SettingError(f"'{text}' must be NAME=VALUE")
        if left in pairs:
            raise SettingError(f"'{left}' is mapped twice: to '{pairs[left]}' and to '{right}'")
        pairs[left] = right
    return pairs


def _core(text: str | None) -> object:
    if text is None:
        return None
    sizes = [int(one) if one.strip().isdecimal() else one for one in text.split(",", 1)]
    return sizes[0] if len(sizes) == 1 else {"users": sizes[0], "items": sizes[1]}
