"""`weft inspect`: what weights are, and how several lie to each other before a merge."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weft.cli.merge_arguments import Backbone
from weft.cli.out import console as safe_console
from weft.cli.out import echo, echo_json
from weft.safe_text import line, spaced, yaml_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft.merging.comparing.comparison import Contrast, Matrix


def inspect_weights_command(
    parts: Annotated[
        list[Path],
        typer.Argument(help="Adapter folders or checkpoints. One is described, more are compared."),
    ],
    base: Annotated[
        Path | None, typer.Option(help="The checkpoint that checkpoints were trained from.")
    ] = None,
    backbone: Backbone = None,
    html: Annotated[
        Path | None, typer.Option(help="Write the comparison as one self-contained HTML file.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    vllm: Annotated[
        int | None,
        typer.Option(help="Check that vLLM would serve this adapter with that --max-lora-rank."),
    ] = None,
) -> None:
    """Describe one adapter or checkpoint, or compare the task vectors of several."""
    from weft.artifacts.atomic import check_file
    from weft.merging.comparing.folders import contrast, describe_weights

    if html is not None:
        check_file(html)  # before the work, not after it
    if vllm is not None:
        _for_vllm(parts, vllm)
        return
    if len(parts) == 1 and base is None and html is None:
        description = describe_weights(parts[0])
        echo_json(description) if json else echo(_described(description))
        return
    with _progress() as progress:
        comparison = contrast(parts, base, backbone=backbone, progress=progress)
    if html is not None:
        from weft.report.contrast_page import render_contrast

        render_contrast(comparison, html)
    if json:
        from weft.merging.comparing.hints import hints

        echo_json(comparison.to_json() | {"hints": hints(comparison)})
    else:
        _print(comparison)
        if html is not None:
            echo(line(f"wrote {html}"))


def _for_vllm(parts: list[Path], rank: int) -> None:
    from weft.adapters.vllm import vllm_problems
    from weft.errors import MismatchError

    for part in parts:
        if problems := vllm_problems(part, rank):
            raise MismatchError(f"vLLM can't serve {part}: {'; '.join(problems)}")
        echo(f"{line(str(part))}: vLLM can serve it with --max-lora-rank {rank}")


def _described(description: dict[str, Any]) -> str:
    rows = [(spaced(name), _value(value)) for name, value in description.items()]
    return "\n".join(name + v if v.startswith("\n") else f"{name:14s} {v}" for name, v in rows)


def _value(value: Any) -> str:
    """One line of text; what holds other values (a merge's recipe) goes below as YAML."""
    if value and _nested(value) and (isinstance(value, dict) or any(map(_nested, value))):
        text = yaml_text(value, width=100).rstrip()
        return "\n" + "\n".join(f"  {one}" for one in text.split("\n"))
    if isinstance(value, list):
        return ", ".join(spaced(str(one)) for one in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return spaced(str(value))


def _nested(value: Any) -> bool:
    return isinstance(value, dict | list)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal's stderr."""
    from rich.progress import Progress

    console = safe_console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading", total=None, visible=False)
        yield lambda done, every: bar.update(task, completed=done, total=every, visible=True)


def _print(c: Contrast) -> None:
    from rich.text import Text

    from weft.merging.comparing.hints import hints

    console = safe_console()
    console.print(_parts(c))
    if len(c.labels) > 1:
        console.print(_pairs(c))
    console.print(_layers(c))
    for text in [*hints(c), *c.notes]:
        console.print(Text(f"· {spaced(text)}"))


def _table(title: str, *columns: str) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title, "bold"), box=None, header_style="dim", title_justify="left")
    for place, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if place else "left")
    return table


def _parts(c: Contrast) -> Any:
    from rich.text import Text

    ranks = c.whole.effective_ranks
    table = _table("parts", "", "‖τ‖", *(["effective rank"] if ranks else []))
    for k, label in enumerate(c.labels):
        more = [_number(ranks[k])] if ranks else []
        table.add_row(Text(f"{k + 1}  {spaced(label)}"), f"{c.whole.norms[k]:.4g}", *more)
    return table


def _pairs(c: Contrast) -> Any:
    measures = _measures(c)
    table = _table("pairs, over all weights", "", *measures)
    for i, j in c.pairs:
        table.add_row(f"{i + 1}–{j + 1}", *(_number(m[i][j]) for m in measures.values()))
    return table


def _measures(c: Contrast) -> dict[str, Matrix]:
    from weft.merging.comparing.comparison import PAIR_CHANCE

    row = c.whole
    measures = {
        "cosine": row.cosines,
        f"sign conflict (chance {PAIR_CHANCE:.2f})": row.conflicts,
    }
    if row.output_overlap is not None and row.input_overlap is not None:
        measures |= {"output overlap": row.output_overlap, "input overlap": row.input_overlap}
    return measures


def _layers(c: Contrast) -> Any:
    """Norms of every part; of the pairs the mean and the least cosine, and what conflicts."""
    from weft.merging.comparing.hints import mean_cosine

    several = len(c.labels) > 1
    norms = [f"‖τ‖ {k + 1}" for k in range(len(c.labels))]
    conflict = f"any sign conflict (chance {c.chance_conflict:.2f})"
    pairs = ["mean cosine", "least", conflict] if several else []
    table = _table("layers", "", *norms, *pairs)
    for row in [*c.layers, *c.kinds]:
        if c.kinds and row is c.kinds[0]:
            table.add_section()
            table.add_row("")
        cells = [f"{norm:.4g}" for norm in row.norms]
        if several:
            known = [v for i, j in c.pairs if (v := row.cosines[i][j]) is not None]
            least = min(known) if known else None
            cells += [_number(mean_cosine(row, c.pairs)), _number(least), _number(row.conflict)]
        table.add_row(spaced(row.name), *cells)
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".replace("-", "−")
