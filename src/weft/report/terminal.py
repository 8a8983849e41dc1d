"""A report in the terminal: a table per target domain, readable from 80 columns on."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from weft.report.console import SafeConsole
from weft.report.format import (
    VERDICT_MARK,
    VERDICT_STYLE,
    data_line,
    facts_line,
    footnotes,
    half,
    metric_label,
    number,
    plain,
    protocol_line,
    seeds_range,
    seeds_verdict,
    serving_head,
    signed,
    spent_line,
    versions_line,
)
from weft.report.model import (
    ReportedMean,
    ReportTable,
    ResultRow,
    RunReport,
    TargetReport,
    UserCase,
    Versus,
)

WIDE = 104  # columns from which on suggestions stand side by side
HISTORY, SUGGESTED = 4, 3  # titles shown of a user


def render_terminal(report: RunReport, console: Console | None = None) -> None:
    """Print title, a table per target domain, users, notes and time."""
    console = console or SafeConsole()
    console.print(Text(plain(report.title), "bold"), Text(f"({plain(report.system)})", "dim"))
    if report.summary:
        console.print(Text(plain(report.summary)))
    for domain in report.domains:
        console.print(_domain(domain, report.featured, console.width))
    if report.domains:
        console.print(Text(f"\n{_legend(report)}", "dim"))
    for one in report.tables:
        console.print(_extra(one))
    for number_of, case in enumerate(report.users, start=1):
        console.print(_user(case, number_of, console.width))
    for place, note in enumerate(report.notes):
        console.print(Text(("" if place else "\n") + f"· {plain(note)}", "dim"))
    if line := versions_line(report):
        console.print(
            Text(f"\nMade with {plain(line)}. {plain(data_line(report))}".rstrip(), "dim")
        )
    if report.timings:
        console.print(Text(f"\nTime: {spent_line(report.timings)}", "dim"))
    _print_serving(report, console)  # last, where the eye is


def _print_serving(report: RunReport, console: Console) -> None:
    chosen = [domain.serving for domain in report.domains if domain.serving is not None]
    if chosen:
        console.print(Text("\nWhat to serve", "bold"))
    for one in chosen:
        head = (f"{plain(one.target)}: {plain(serving_head(one))}. ", "bold")
        console.print(Text.assemble(head, plain(one.reason)))


def _legend(report: RunReport) -> str:
    baselines = " or ".join(dict.fromkeys(plain(domain.baseline) for domain in report.domains))
    return (
        f"± is half of a 95 % interval. ▲ gain, ▼ loss, ≈ unclear: against {baselines} (or the row"
        " named), by a paired test over users with p < .05 after Holm's correction over the table"
    )


def _domain(domain: TargetReport, featured: str, width: int) -> RenderableType:
    columns = len(domain.headline)
    wide = width >= 24 + 26 * columns
    names = max(10, width - (26 if wide else 19) * columns - 2)
    marks, below = footnotes(domain)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", no_wrap=True, overflow="ellipsis")
    for metric in domain.headline:
        label = metric_label(metric)
        table.add_column(label if wide else label.replace(" (all items)", ", all"), no_wrap=True)
    for row in domain.rows:
        style = {domain.baseline: "underline", featured: "bold"}.get(row.name, "")
        cells = [_cell(row, metric, wide) for metric in domain.headline]
        mark = f" {marks[row.name]}" if row.name in marks else ""
        name = Text(_fit(plain(row.name), max(1, names - cell_len(mark))), style)
        table.add_row(name.append(mark, "yellow"), *cells)
        if row.seeds:
            table.add_row(*_seeds_cells(row, domain.headline))
    row_before = ""
    for one in domain.contrasts:
        if one.row != row_before:
            table.add_row(Text(_fit(f"{plain(one.row)} minus", names), "dim"))
        row_before = one.row
        against = Text(f"  {_fit(plain(one.against), names - 2)}")
        table.add_row(against, *(_difference(one.versus.get(m)) for m in domain.headline))
    parts: list[RenderableType] = [
        Text(f"\n{plain(domain.domain)}", "bold"),
        Text(protocol_line(domain.protocol), "dim"),
        table,
        *(Text(f"{mark} {plain(text)}", "yellow") for mark, text in below),
        *(Text(plain(text), "yellow") for text in domain.cautions),
    ]
    explanations = [
        f"{plain(one.row)} − {plain(one.against)}: {one.about}"
        for one in domain.contrasts
        if one.about
    ]
    parts += [Text(plain(line), "dim") for line in explanations]
    if sentence := seeds_verdict(domain, featured):
        parts.append(Text(sentence))
    if sentence := facts_line(domain):
        parts.append(Text(sentence, "dim"))
    return Group(*parts)


def _extra(one: ReportTable) -> RenderableType:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for place, name in enumerate(one.header):
        table.add_column(Text(plain(name)), justify="right" if place else "left", overflow="fold")
    for row in one.rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    parts: list[RenderableType] = [Text(f"\n{plain(one.title)}", "bold"), table]
    return Group(*parts, *([Text(plain(one.about), "dim")] if one.about else []))


def _cell(row: ResultRow, metric: str, wide: bool) -> Text:
    """`0.1443 ±.0261 ▲`, with the difference where there is room for it."""
    text = _mean(row.metrics[metric])
    one = row.versus.get(metric)
    if one is not None:
        difference = f"{signed(one.difference)} " if wide else ""
        text.append(f" {difference}{VERDICT_MARK[one.verdict]}", VERDICT_STYLE[one.verdict])
    return text


def _mean(one: ReportedMean) -> Text:
    return Text.assemble(number(one.mean), (f" {half(one)}", "dim"))


def _seeds_cells(row: ResultRow, metrics: tuple[str, ...]) -> list[Text]:
    count = max(one.seeds for one in row.seeds.values())
    cells = [seeds_range(row.seeds[m]) if m in row.seeds else "" for m in metrics]
    return [Text(f"  over {count} seeds", "dim"), *(Text(cell, "dim") for cell in cells)]


def _difference(one: Versus | None) -> Text:
    if one is None:
        return Text()
    difference = f"{signed(one.difference)} "
    return Text.assemble(
        (difference, VERDICT_STYLE[one.verdict]),
        (half(one), "dim"),
        (f" {VERDICT_MARK[one.verdict]}", VERDICT_STYLE[one.verdict]),
    )


def _user(case: UserCase, place: int, width: int) -> RenderableType:
    """What a user had, took next, and was suggested; a hit is marked with ✓."""
    inner = min(width, 140) - 2
    had = [plain(title) for title in case.history]
    lines = [Text(f"  {_fit(title, inner - 2)}") for title in had[-HISTORY:]]
    if len(had) > HISTORY:
        lines.insert(0, Text(f"  … {len(had) - HISTORY} earlier", "dim"))
    took = Text.assemble(("took next  ", "dim"), (_fit(plain(case.target), inner - 11), "bold"))
    rows = list(case.suggestions.items())
    each = (inner - 3) // 2 if width >= WIDE and len(rows) == 2 else inner
    blocks = [_suggested(name, titles, case.target, each) for name, titles in rows]
    if each < inner:
        side = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_header=False)
        side.add_column(width=each)
        side.add_column(width=each)
        side.add_row(*blocks)
        blocks = [side]
    body = Group(Text("had, oldest first", "dim"), *lines, took, *blocks)
    head = f"\nUser {place}: {plain(case.user)}, {plain(case.domain)}"
    return Group(Text(head, "bold"), Padding(body, (0, 0, 0, 2)))


def _suggested(name: str, titles: list[str], target: str, width: int) -> RenderableType:
    hit = titles.index(target) + 1 if target in titles else 0
    outcome = f"✓ at {hit}" if hit else f"not among its first {len(titles)}"
    head = Text.assemble((plain(name), "dim"), "  ", (outcome, "bold green" if hit else "dim"))
    out = [head]
    for place, title in enumerate(titles, start=1):
        if place <= SUGGESTED or place == hit:
            mark = "✓" if place == hit else " "
            text = f"{mark} {place}  {_fit(plain(title), width - 5)}"
            out.append(Text(text, "bold green" if place == hit else ""))
    return Group(*out)


def _fit(text: str, cells: int) -> str:
    """Cut to so many cells of the terminal, with an ellipsis."""
    if cell_len(text) <= cells:
        return text
    return set_cell_size(text, max(1, cells - 1)).rstrip() + "…"
