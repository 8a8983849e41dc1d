"""A report in the terminal."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from weft.report.format import (
    VERDICT_MARK,
    VERDICT_STYLE,
    number,
    p_value,
    plain,
    protocol_line,
    seconds,
    signed,
)
from weft.report.model import DomainReport, Row, RunReport, UserCase


def render_terminal(report: RunReport, console: Console | None = None) -> None:
    """Print title, a table per target domain, users and timings."""
    console = console or Console()
    console.print(Text(plain(report.title), "bold"), Text(f"({plain(report.system)})", "dim"))
    if report.summary:
        console.print(Text(plain(report.summary)))
    for domain in report.domains:
        console.print(_domain(domain))
    for case in report.users:
        console.print(_user(case))
    for note in report.notes:
        console.print(Text(f"· {plain(note)}"))
    if report.timings:
        spent = ", ".join(f"{plain(name)} {seconds(s)}" for name, s in report.timings.items())
        console.print(Text(f"\nTime: {spent}", "dim"))


def _domain(domain: DomainReport) -> RenderableType:
    parts: list[RenderableType] = [
        Text(f"\n{plain(domain.domain)}", "bold"),
        Text(protocol_line(domain.protocol), "dim"),
    ]
    for metric in domain.headline:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="underline")
        table.add_column(metric)
        for column in ("mean", f"− {plain(domain.baseline)}"[:16], "95 % interval", "Holm p", ""):
            table.add_column(column, no_wrap=True)
        for row in domain.rows:
            table.add_row(Text(plain(row.name)), *_cells(row, metric))
        parts.append(table)
    return Group(*parts)


def _cells(row: Row, metric: str) -> list[Text]:
    cells = [Text(number(row.metrics[metric].mean))]
    one = row.versus.get(metric)
    if one is None:
        return cells
    style = VERDICT_STYLE[one.verdict]
    return [
        *cells,
        Text(signed(one.difference), style),
        Text(f"{signed(one.low)} … {signed(one.high)}"),
        Text(p_value(one.p_holm)),
        Text(f"{VERDICT_MARK[one.verdict]} {one.verdict}", style),
    ]


def _user(case: UserCase) -> RenderableType:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_row(Text("had", "dim"), Text("; ".join(plain(title) for title in case.history[-5:])))
    table.add_row(Text("took", "dim"), Text(plain(case.target), "bold"))
    for name, titles in case.suggestions.items():
        text = Text()
        for place, title in enumerate(titles[:3]):
            text.append("; " if place else "")
            text.append(plain(title), "bold green" if title == case.target else "")
        table.add_row(Text(plain(name), "dim"), text)
    return Group(Text(f"\nuser {plain(case.user)}, {plain(case.domain)}", "bold"), table)
