"""`weft data`: bring logs in, look at them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from weft.data.filters import Counts
    from weft.data.ingest import IngestReport
    from weft.data.inspect import Bin, DomainReport, Spread

app = typer.Typer(
    help="Bring logs in as domain folders, and look at them.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
READ, KEEP, WRITE = "What to read", "What to keep", "What to write"
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@app.command(no_args_is_help=True)
def ingest(
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
            help="The file of items with their titles. Not needed where it lies beside the source (parquet, recbole, movielens) or where the source has a column 'title'.",
            rich_help_panel=READ,
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            help="The source's format, of those that 'weft data formats' lists. Unset: told by the file's name.",
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
    time_unit: Annotated[
        Literal["s", "ms", "us", "ns", "iso", "order"] | None,
        typer.Option(
            help="What the times count since 1970; 'iso': written dates such as 2014-07-23T10:15:00; 'order': there are no times, the rows are in order. Unset: seconds.",
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
    json: Json = False,
) -> None:
    """Turn a log of any format into a domain folder.

    A domain folder has interactions.parquet, items.parquet and domain.json; it is written whole
    or not at all. The filters apply in the order in which they are listed below.

    Examples

    weft data ingest clicks.csv shop --items products.csv --column user_id=customer --column item_id=sku --column timestamp=when --item-column item_id=sku --item-column title=name --time-unit iso

    weft data ingest ml-1m/ movies --minimum-rating 4 --k-core 5

    weft data ingest Office_Products_5.json.gz office --format amazon-2018 --items meta_Office_Products.json.gz --titled
    """  # fmt: skip
    from weft.artifacts.atomic import check_parents
    from weft.data import ingest as run
    from weft.data.filters import Filters
    from weft.data.source import Source, checked

    settings = {
        "format": format, "interactions": source, "items": items, "columns": _pairs(column),
        "item_columns": _pairs(item_column), "header": header, "time_unit": time_unit,
        "minimum_rating": minimum_rating, "unlisted": unlisted,
    }  # fmt: skip
    filters = {
        "where": _pairs(where), "titled": titled, "time_from": time_from,
        "time_until": time_until, "one_per_day": one_per_day, "k_core": _core(k_core),
        "minimum_length": minimum_length, "maximum_length": maximum_length,
        "sample_users": sample_users, "unused_items": unused_items, "seed": seed,
    }  # fmt: skip
    check_parents(destination)  # before the work, not after it
    report = run.ingest(
        checked(Source, settings), destination,
        name=name, filters=checked(Filters, filters), replace=replace,
    )  # fmt: skip
    _print_json(report) if json else _print_ingest(report)


@app.command(no_args_is_help=True)
def inspect(
    domain: Annotated[list[Path], typer.Argument(help="Domain folders.")], json: Json = False
) -> None:
    """Show what is in a domain: counts, histograms, ties of time, missing and repeated titles."""
    from weft.data.folder import load_domain
    from weft.data.inspect import inspect_domain

    reports = [inspect_domain(load_domain(path)) for path in domain]
    if json:
        _print_json(reports[0] if len(reports) == 1 else reports)
    else:
        for report in reports:
            _print_domain(report)


@app.command()
def formats(json: Json = False) -> None:
    """List the formats that 'weft data ingest' reads."""
    from rich.table import Table

    from weft.data.readers import READERS

    if json:
        _print_json([{"name": r.name, "summary": r.summary} for r in READERS])
        return
    table = Table("--format", "reads", "told by the name", box=None)
    for reader in READERS:
        table.add_row(reader.name, reader.summary, ", ".join(reader.patterns) or "no")
    _console().print(table)


def _pairs(given: list[str] | None) -> dict[str, str]:
    from weft.errors import WeftError

    pairs: dict[str, str] = {}
    for text in given or []:
        left, equals, right = text.partition("=")
        if not (left and equals and right):
            raise WeftError(f"'{text}' must be NAME=VALUE")
        pairs[left] = right
    return pairs


def _core(text: str | None) -> object:
    if text is None or "," not in text:
        return text
    users, _, items = text.partition(",")
    return {"users": users, "items": items}


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False)


def _print_json(report: object) -> None:
    from dataclasses import asdict, is_dataclass
    from json import dumps

    def plain(value: object) -> object:
        if isinstance(value, list):
            return [plain(one) for one in value]
        return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value

    typer.echo(dumps(plain(report), indent=2, ensure_ascii=False))


def _print_ingest(report: IngestReport) -> None:
    from rich.table import Table

    def add(step: str, now: Counts, before: Counts | None) -> None:
        cells = []
        for field in ("users", "items", "interactions"):
            value = getattr(now, field)
            gone = 0 if before is None else getattr(before, field) - value
            cells.append(f"{value:,}" + (f"  [dim]-{gone:,}[/dim]" if gone else ""))
        table.add_row(step, *cells)

    table = Table("step", title=f"{report.name}: {report.format} → {report.path}", box=None)
    for column in ("users", "items", "interactions"):
        table.add_column(column, justify="right")
    add("read", report.read, None)
    for step in report.removed:
        add(step.step, step.after, step.before)
    console = _console()
    console.print(table)
    left = report.left
    for count, what in (
        (left.below_rating, "interactions below the minimum rating were left out"),
        (left.unlisted_dropped, "interactions of items without a catalogue row were dropped"),
        (left.unlisted_added, "items without a catalogue row were added, without text"),
        (left.repeated_items, "repeated catalogue rows were left out"),
        (report.users_with_ties, "users have interactions of equal time: those are in file order"),
    ):
        if count:
            console.print(f"{count:,} {what}")
    for note in report.notes:
        console.print(note)


def _print_domain(report: DomainReport) -> None:
    from rich.table import Table

    table = Table(title=f"{report.name}  [dim]{report.hash}[/dim]", box=None, show_header=False)
    table.add_column(justify="right")
    table.add_column()
    users, items, n = report.users, report.items, report.interactions
    times = f"{report.first_time} to {report.last_time}" if report.first_time else "an order index"
    for value, what in (
        (f"{users:,}", "users" + _of(report.evaluable_users, users, "with 3 interactions or more")),
        (f"{items:,}", "items" + _of(report.unused_items, items, "in no sequence")),
        (f"{n:,}", f"interactions (density {report.density:.2g}; times: {times})"),
        (f"{report.users_with_ties:,}", "users with ties of time" + _of(report.tied_interactions, n, "of the interactions")),
        (f"{report.repeated_items:,}", "interactions with an item that their user had before"),
        (f"{report.missing_titles:,}", "items without a title" + _of(report.missing_titles, items, "")),
        (f"{report.duplicate_titles:,}", "items whose title another item has too"),
        (f"{report.top_percent_share:.1%}", "of the interactions are with the top 1 % of items"),
    ):  # fmt: skip
        table.add_row(value, what)
    for column, count in report.text_columns.items():
        table.add_row(f"{count / max(1, items):.1%}", f"of the items have a text '{column}'")
    console = _console()
    console.print(table)
    for title, spread, bins in (
        ("sequence length", report.lengths, report.length_histogram),
        ("title length in characters", report.titles, report.title_histogram),
    ):
        console.print(title + _said(spread))
        console.print(_bars(bins))


def _of(part: int, whole: int, what: str) -> str:
    return f" ({part:,} = {part / whole:.1%} {what}".rstrip() + ")" if part else ""


def _said(spread: Spread | None) -> str:
    if spread is None:
        return ": none"
    s = spread
    return f": median {s.median:g}, mean {s.mean:.1f}, {s.least:g} to {s.most:g}"


def _bars(bins: tuple[Bin, ...]) -> Any:
    from rich.table import Table

    table = Table(box=None, show_header=False)
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_column()
    largest = max((one.count for one in bins), default=1)
    for one in bins:
        high = "+" if one.high is None else "" if one.high == one.low else f" – {one.high:,}"
        table.add_row(f"{one.low:,}{high}", f"{one.count:,}", "█" * round(40 * one.count / largest))
    return table
