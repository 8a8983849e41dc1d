"""`weft backbone`: make the shared language model where none can be had."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from weft.cli.out import echo

app = typer.Typer(help="Make a backbone.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command()
def pretrain(
    recipe: Annotated[Path, typer.Argument(help="A recipe, e.g. recipes/backbones/weft-10m.yaml.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="New folder of the backbone.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder that holds the catalogues' folders.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="All cores unless given.")] = None,
) -> None:
    """Train a small causal language model and its tokenizer on catalogue text alone.

    Kill it whenever you like: the same command goes on from its last checkpoint.
    """
    import torch

    from weft.backbones.load import check_device
    from weft.cli.progress import steps_progress
    from weft.pretraining.pretrain import load_pretrain_recipe
    from weft.pretraining.pretrain import pretrain as make

    loaded = load_pretrain_recipe(recipe)
    check_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    with steps_progress("blocks") as report:
        made = make(loaded, out, data=data, device=device, report=report)
    echo(
        f"{made.folder}: {made.parameters:,} parameters, {made.tokens:,} tokens read, perplexity "
        f"{made.perplexity:.2f} on held-out titles (untrained {made.perplexity_before:,.0f})"
    )
    sys.stdout.flush()
