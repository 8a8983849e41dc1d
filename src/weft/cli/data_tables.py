"""What `weft data` prints: tables for people, JSON for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from weft.cli.out import console as safe_console
from weft.cli.out import echo_json, note
from weft.safe_text import spaced

if TYPE_CHECKING:
    from weft.data.filters import Counts
    from weft.data.ingest import IngestReport
    from weft.data.inspect import Bin, DomainReport, Quartiles

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def print_json(report: object) -> None:
    from dataclasses import asdict, is_dataclass

    def plain(value: object) -> object:
        if isinstance(value, list):
            return [plain(one) for one in value]
        return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value

    echo_json(plain(report))


def print_ingest(report: IngestReport) -> None:
    from rich.table import Table
    from rich.text import Text

    def add(step: str, now: Counts, before: Counts | None) -> None:
        cells = []
        for field in ("users", "items", "interactions"):
            value = getattr(now, field)
            gone = 0 if before is None else getattr(before, field) - value
            cells.append(Text.assemble(f"{value:,}", (f"  -{gone:,}" if gone else "", "dim")))
        table.add_row(spaced(step), *cells)

    title = spaced(f"{report.name}: {report.format} → {report.path}")
    table = Table("step", title=Text(title), box=None)
    for column in ("users", "items", "interactions"):
        table.add_column(column, justify="right")
    add("read", report.read, None)
    for step in report.removed:
        add(step.step, step.after, step.before)
    console = safe_console()
    console.print(table)
    left = report.left
    for count, what in (
        (left.below_rating, "interactions below the minimum rating were left out"),
        (left.unlisted_dropped, "interactions of items without a catalogue row were dropped"),
        (left.unlisted_added, "items without a catalogue row were added, without text"),
        (left.repeated_items, "repeated catalogue rows were left out"),
        (left.bad_rows, "rows that can't be read were dropped"),
        (left.filtered_bad_rows, "rows that can't be read would have been left out anyway"),
        (
            report.users_with_ties,
            "users have interactions within one second: ordered by its fractions, if any, then by row",
        ),
    ):
        if count:
            console.print(f"{count:,} {what}")


def print_notes(report: IngestReport) -> None:
    """What a person should look at, on stderr."""
    for sentence in (*report.notes, *(f"dropped: {one}" for one in report.bad_rows.first)):
        note(sentence)
    more = report.bad_rows.count - len(report.bad_rows.first)
    if more > 0:
        note(f"dropped: and {more:,} more")


def print_domain(report: DomainReport) -> None:
    from rich.table import Table
    from rich.text import Text

    heading = Text.assemble(spaced(report.name), (f"  {spaced(report.hash)}", "dim"))
    table = Table(title=heading, box=None, show_header=False)
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
        share = f"{count / max(1, items):.1%}"
        table.add_row(share, f"of the items have a text '{spaced(column)}'")
    if report.split is not None:
        for part in ("train", "validation", "test"):
            sizes = getattr(report.split, part)
            where = f"{part} targets of {sizes.users:,} users ({spaced(report.split.split)})"
            table.add_row(f"{sizes.targets:,}", where)
    console = safe_console()
    console.print(table)
    for what, spread, bins in (
        ("sequence length", report.lengths, report.length_histogram),
        ("title length in characters", report.titles, report.title_histogram),
    ):
        console.print(what + _quartiles(spread))
        console.print(_bars(bins))


def _of(part: int, whole: int, what: str) -> str:
    return f" ({part:,} = {part / whole:.1%} {what}".rstrip() + ")" if part else ""


def _quartiles(spread: Quartiles | None) -> str:
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
