"""`weft merge` and `weft methods`: several adapters or checkpoints into one."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from weft.cli.merge_arguments import KEY, Backbone
from weft.cli.out import console as safe_console
from weft.cli.out import echo, echo_json, note, say
from weft.safe_text import line, yaml_text

if TYPE_CHECKING:
    from weft.merging.limits import ReportProgress
    from weft.merging.plan import MergePlan


def merge_command(
    ctx: typer.Context,
    parts: Annotated[
        list[str],
        typer.Argument(
            help="Folders of adapters, or folders or files of checkpoints; or one recipe: weft's "
            "or mergekit's YAML, or the weft.json of a merge.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="New folder for the result.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="`weft methods` lists them; the method's own options are options here, "
            "as in --method ties --density 0.2.",
        ),
    ] = "",
    weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NUMBER...",
            help="One for each part: --weights 0.5 0.3 or --weights 0.5,0.3. "
            "Default: the method's own.",
        ),
    ] = None,
    weight: Annotated[
        list[float] | None, typer.Option(help="The same, one at a time: --weight 0.5 --weight 0.3.")
    ] = None,
    learn: Annotated[
        str | None,
        typer.Option(
            metavar="collaborative|FILE",
            help="Learn the weights from catalogues alone, as MergeRec does; a YAML file has "
            "settings.",
        ),
    ] = None,
    catalogues: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE...",
            help="For --learn: each part's items (.parquet, .csv, .txt), in the parts' order. "
            "Default: the items.parquet in each part's folder.",
        ),
    ] = None,
    base: Annotated[
        list[str] | None,
        typer.Option(
            help="The checkpoint that was fine-tuned; of several, the mean is the base. Of "
            "adapters, their backbone."
        ),
    ] = None,
    space: Annotated[
        Literal["delta", "factors"] | None,
        typer.Option(help="Adapters: merge ΔW, exactly (the default), or A and B separately."),
    ] = None,
    rank: Annotated[
        int | None, typer.Option(min=1, help="Adapters: the rank of the result.")
    ] = None,
    union: Annotated[
        bool,
        typer.Option(
            "--union",
            help="Adapters: merge parts that have few modules in common; a module that a part "
            "lacks is zero there.",
        ),
    ] = False,
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"] | None,
        typer.Option(
            help="Of the result's numbers. Default: for checkpoints the first part's, for the "
            "factors of adapters float32."
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="base|union|rows|PART",
            help="Checkpoints whose tokenizers differ: align the rows of embeddings to this "
            "vocabulary. With rows they are merged as they are: row by row, whatever their tokens.",
        ),
    ] = None,
    backbone: Backbone = None,
    shard_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Checkpoints: size of a file. Default: 5GB.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads. Default: all cores.")] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Checkpoints: use at most this much memory, such as 2GB."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print the recipe, write nothing.")
    ] = False,
) -> None:
    """Merge adapters or checkpoints into one. Needs no backbone, unless weights are learned."""
    from weft.artifacts.atomic import check_folder
    from weft.errors import SettingError
    from weft.merging.limits import MergeLimits
    from weft.merging.paths import bytes_of
    from weft.merging.plan import plan_recipe
    from weft.merging.recipe_options import recipe_of_options, recipe_with

    limits = MergeLimits(threads=threads, memory=None if memory is None else bytes_of(memory))
    stated = {
        "method": method,
        "weights": weights,
        "weight": weight,
        "base": base,
        "space": space,
        "rank": rank,
        "union": union,
        "tokenizer": tokenizer,
        "backbone": backbone,
    }
    recipe = recipe_of_options(parts, stated, ctx.meta.get(KEY, {}))
    recipe = recipe_with(recipe, dtype=dtype, shard_size=shard_size)
    if catalogues and learn is None:
        raise SettingError("--catalogues is for --learn")
    if learn is not None and recipe.weights is not None:
        raise SettingError("say --learn or weights, not both")
    where = out or (None if recipe.out is None else Path(recipe.out))
    if where is None and not dry_run:
        raise SettingError("say where to: -o FOLDER")
    if where is not None:
        check_folder(where, new=True)
    started = time.monotonic()
    if learn is not None:
        from weft.cli.merge_learn import learned_recipe

        files = [one for text in catalogues or [] for one in text.split(",") if one]
        recipe = learned_recipe(recipe, learn, files, note)
    plan = plan_recipe(recipe)
    _print_notes(plan)
    if dry_run:
        echo(yaml_text(plan.resolved()).rstrip())
        return
    assert where is not None
    with _bar() as progress:
        plan.run(where, limits, progress)
    _print_summary(plan, where, time.monotonic() - started)


def methods_command(
    name: Annotated[str | None, typer.Argument(help="One method, in full.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the merging methods and their options."""
    from dataclasses import asdict

    from weft.cli.merge_methods import one_method, table
    from weft.merging.methods.describe import describe_methods
    from weft.merging.methods.registry import make_method

    docs = describe_methods()
    if name is not None:
        docs = [doc for doc in docs if doc.name == name]
        if not docs:
            make_method(name)  # says what there is
    if json:
        values = [asdict(doc) for doc in docs]
        echo_json(values if name is None else values[0])
    elif name is not None:
        echo(one_method(docs[0]))
    else:
        echo(table(docs))


def _print_notes(plan: MergePlan) -> None:
    for text in plan.notes:
        note(text)
    if plan.widened is not None:
        note(f"the parts are {plan.widened}, the merge is float32: --dtype {plan.widened} keeps it")


def _print_summary(plan: MergePlan, out: Path, seconds: float) -> None:
    from weft.merging.summary import summarise_merge

    count, kind = len(plan.parts.labels), plan.parts.kind
    what = f"{count} {kind if count > 1 else kind.removesuffix('s')}"
    size = _size(sum(file.stat().st_size for file in out.rglob("*") if file.is_file()))
    echo(f"merged {what} into {line(str(out))}: {size} in {seconds:.1f} s")
    summary = summarise_merge(plan, out)
    for text in summary.lines:
        echo(f"  {text}")
    for text in summary.warnings:
        say(f"warning: {text}")


@contextmanager
def _bar() -> Iterator[ReportProgress | None]:
    """A bar with speed and time left on a terminal, else nothing."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=safe_console(stderr=True), transient=True) as bar:
        task = bar.add_task("merging", total=None)
        yield lambda now: bar.update(task, completed=now.done_bytes, total=now.total_bytes)


def _size(count: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"
