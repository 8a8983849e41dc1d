"""`weft compare`: results of one protocol, paired by user."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weft.cli.out import console as safe_console
from weft.cli.out import echo_json

if TYPE_CHECKING:
    from weft.evaluation.compare import Comparison, Estimate
    from weft.evaluation.result import Result


def compare_command(
    results: Annotated[
        list[Path], typer.Argument(help="Result folders; the first is the baseline.")
    ],
    metric: Annotated[
        list[str] | None,
        typer.Option(help="A metric such as ndcg@5 or full/recall@10; may be repeated."),
    ] = None,
    bootstrap: Annotated[
        int, typer.Option(help="Resamplings for the interval; 0: Student's interval.", min=0)
    ] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare results with the first one: difference, 95 % interval, paired tests."""
    from weft.errors import SettingError
    from weft.evaluation.compare import common_metrics, compare_table, estimate
    from weft.evaluation.result import Result

    if len(results) < 2:
        raise SettingError("compare needs two result folders or more")
    loaded = dict(zip(_names(results), map(Result.load, results), strict=True))
    baseline = next(iter(loaded))
    metrics = metric or common_metrics(loaded)
    table = compare_table(loaded, baseline, metrics, bootstrap=bootstrap)
    means = {name: {m: estimate(one, m) for m in metrics} for name, one in loaded.items()}
    if json:
        _print_json(baseline, loaded, means, table)
    else:
        _print_tables(baseline, loaded, means, table)


def _names(paths: list[Path]) -> list[str]:
    """The folders' names where all differ, else the paths as they were written."""
    from weft.errors import SettingError

    short = [path.resolve().name for path in paths]
    names = short if len(set(short)) == len(short) else [str(path) for path in paths]
    if len(set(names)) != len(names):
        raise SettingError("compare got the same result folder twice")
    return names


def _print_json(
    baseline: str,
    results: dict[str, Result],
    means: dict[str, dict[str, Estimate]],
    table: dict[str, list[Comparison]],
) -> None:
    from dataclasses import asdict

    out: dict[str, Any] = {
        "baseline": baseline,
        "protocol": results[baseline].protocol.model_dump(mode="json"),
        "versions": {name: dict(one.versions) for name, one in results.items()},
        "means": {
            name: {metric: asdict(one) for metric, one in row.items()}
            for name, row in means.items()
        },
        "comparisons": {
            name: [{**asdict(one), "verdict": one.verdict} for one in row]
            for name, row in table.items()
        },
    }
    echo_json(out)


def _print_tables(
    baseline: str,
    results: dict[str, Result],
    means: dict[str, dict[str, Estimate]],
    table: dict[str, list[Comparison]],
) -> None:
    from rich.table import Table
    from rich.text import Text

    from weft.report.format import VERDICT_STYLE, number, p_value, signed

    protocol = results[baseline].protocol
    console = safe_console()
    console.print(Text(f"{protocol.domain}, {protocol.part}, {protocol.users:,} users", "bold"))
    for name, row in table.items():
        grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="underline")
        for column in ("metric", "mean", "diff.", "95 % interval", "Wilcoxon", "Holm p", ""):
            grid.add_column(column, no_wrap=True)
        for one in row:
            grid.add_row(
                one.metric,
                number(means[name][one.metric].mean),
                Text(signed(one.difference), style=VERDICT_STYLE[one.verdict]),
                f"{signed(one.low)} … {signed(one.high)}",
                p_value(one.p_wilcoxon),
                p_value(one.p_holm),
                Text(one.verdict, style=VERDICT_STYLE[one.verdict]),
            )
        console.print(Text(f"\n{name} − {baseline}"))
        console.print(grid)
    for line in _unlike_versions(baseline, results):
        console.print(Text(line))
    console.print(
        "Holm p: paired t-test, corrected over every comparison shown; "
        "gain and loss are those below .05."
    )


def _unlike_versions(baseline: str, results: dict[str, Result]) -> list[str]:
    """A sentence for each result that other versions made than the baseline's."""
    base = results[baseline].versions
    lines = []
    for name, one in results.items():
        unlike = [
            f"{what} {one.versions[what]} against {base[what]}"
            for what in one.versions
            if what in base and one.versions[what] != base[what]
        ]
        if unlike:
            lines.append(f"{name} was measured with other versions: {', '.join(unlike)}.")
    return lines
