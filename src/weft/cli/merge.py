"""`weft merge` and `weft methods`: several adapters or checkpoints into one."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from weft.cli.merge_arguments import KEY, Backbone, method_of
from weft.cli.out import console as safe_console
from weft.cli.out import echo, echo_json, note, say
from weft.safe_text import line, yaml_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft.merging.folder import Progress
    from weft.merging.recipe import MergeRecipe


def merge(
    ctx: typer.Context,
    parts: Annotated[
        list[str],
        typer.Argument(
            help="Folders of adapters, or folders or files of checkpoints; or one recipe: weft's "
            "or mergekit's YAML, or the weft.json of a merge.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="New folder for what comes out.")
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
            "The method's own unless given.",
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
            help="For --learn: each part's items (.parquet, .csv, .txt), in the parts' order; "
            "unless given, the items.parquet in each part's folder.",
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
        typer.Option(help="Adapters: merge ΔW, exactly (the default), or A and B, each alone."),
    ] = None,
    rank: Annotated[
        int | None, typer.Option(min=1, help="Adapters: the rank of what comes out.")
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
            help="Of what comes out: a checkpoint's is the first part's unless given, that of "
            "an adapter's factors float32."
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="base|union|rows|PART",
            help="Checkpoints whose tokenizers differ: align the rows of embeddings to this "
            "vocabulary; rows says that they mean the same as they are.",
        ),
    ] = None,
    backbone: Backbone = None,
    shard_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Checkpoints: of a file; 5GB unless given.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="All cores unless given.")] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Checkpoints: most memory, such as 2GB.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print the recipe, write nothing.")
    ] = False,
) -> None:
    """Merge adapters or checkpoints into one. Needs no backbone, unless weights are learned."""
    from weft.artifacts.atomic import check_folder
    from weft.errors import WeftError
    from weft.merging.merge import plan_recipe, run_merge
    from weft.merging.outcome import outcome
    from weft.merging.recipe import bytes_of

    options: dict[str, str] = ctx.meta.get(KEY, {})
    limit = None if memory is None else bytes_of(memory)
    said = {
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
    recipes = [part for part in parts if Path(part).suffix in (".yaml", ".yml", ".json")]
    if recipes and len(parts) > 1:
        raise WeftError(f"{recipes[0]} is a recipe, which names every part: give it alone")
    if recipes:
        taken = [name for name, value in said.items() if value] + sorted(options)
        if taken:
            raise WeftError(f"{parts[0]} is a recipe: write {taken[0].replace('_', '-')} there")
        recipe = _recipe_in(Path(parts[0]))
    else:
        recipe = _recipe_of(parts, method_of(method or "linear", options), said)
    changes = {"dtype": dtype, "shard_size": shard_size}
    recipe = recipe.model_copy(update={name: v for name, v in changes.items() if v is not None})
    if catalogues and learn is None:
        raise WeftError("--catalogues is for --learn")
    if learn is not None and recipe.weights is not None:
        raise WeftError("say --learn or weights, not both")
    shard = bytes_of(recipe.shard_size)
    where = out or (None if recipe.out is None else Path(recipe.out))
    if where is None and not dry_run:
        raise WeftError("say where to: -o FOLDER")
    if where is not None:
        check_folder(where, new=True)
    started = time.monotonic()
    if learn is not None:
        from weft.cli.merge_learn import learned

        listed = [one for text in catalogues or [] for one in text.split(",") if one]
        recipe = learned(recipe, learn, listed, note)
    job = plan_recipe(recipe)
    for text in job.notes:
        note(text)
    if job.widened is not None:
        note(f"the parts are {job.widened}, the merge is float32: --dtype {job.widened} keeps it")
    if dry_run:
        echo(yaml_text(job.recipe(None, shard)).rstrip())
        return
    assert where is not None
    with _bar() as progress:
        run_merge(job, where, shard_bytes=shard, threads=threads, memory=limit, progress=progress)
    count, kind = len(job.parts.labels), job.parts.kind
    what = f"{count} {kind if count > 1 else kind.removesuffix('s')}"
    size = _size(sum(file.stat().st_size for file in where.rglob("*") if file.is_file()))
    echo(f"merged {what} into {line(str(where))}: {size} in {time.monotonic() - started:.1f} s")
    found = outcome(job, where)
    for text in found.lines:
        echo(f"  {text}")
    for text in found.warnings:
        say(f"warning: {text}")


def methods(
    name: Annotated[str | None, typer.Argument(help="One method, in full.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the merging methods and their options."""
    from dataclasses import asdict

    from weft.cli.merge_methods import one_method, table
    from weft.merging.methods import describe_methods, make_method

    found = describe_methods()
    if name is not None:
        found = [doc for doc in found if doc.name == name]
        if not found:
            make_method(name)  # says what there is
    if json:
        said = [asdict(doc) for doc in found]
        echo_json(said if name is None else said[0])
    elif name is not None:
        echo(one_method(found[0]))
    else:
        echo(table(found))


def _recipe_in(path: Path) -> MergeRecipe:
    from weft.merging.recipe import load_merge_recipe

    return load_merge_recipe(path)


def _recipe_of(parts: list[str], method: dict[str, Any], said: dict[str, Any]) -> MergeRecipe:
    """The recipe that the options stand for."""
    from weft.data.source import checked
    from weft.errors import WeftError
    from weft.merging.recipe import MergeRecipe

    if said["weights"] and said["weight"]:
        raise WeftError("say --weights or --weight, not both")
    weights: list[Any] | None = said["weight"] or None
    if said["weights"]:
        weights = [one for text in said["weights"] for one in text.split(",") if one.strip()]
    if weights is not None and len(weights) != len(parts):
        raise WeftError(
            f"{len(parts)} part{'s need' if len(parts) > 1 else ' needs'} "
            f"{len(parts)} weight{'s' * (len(parts) > 1)}, not {len(weights)}"
        )
    base: Any = said["base"] or None
    if base is not None:
        base = base[0] if len(base) == 1 else {"mean_of": base}
    listed = [
        {"path": path} | ({} if weights is None else {"weight": weights[k]})
        for k, path in enumerate(parts)
    ]
    values = {"method": method, "parts": listed, "base": base}
    return checked(MergeRecipe, values | {name: said[name] for name in _PLAIN})


_PLAIN = (
    "space",
    "rank",
    "union",
    "tokenizer",
    "backbone",
)  # options that a recipe has as they are


@contextmanager
def _bar() -> Iterator[Callable[[Progress], None] | None]:
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
