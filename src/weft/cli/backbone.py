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


@app.command("pretrain")
def pretrain_command(
    recipe: Annotated[
        Path, typer.Argument(help="A recipe: a file, or a name that `weft recipes` lists.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="New folder of the backbone.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder that holds the catalogues' folders.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads. Default: all cores.")] = None,
) -> None:
    """Train a small causal language model and its tokenizer on catalogue text alone.

    It can be stopped at any time: the same command, run again, goes on from the last checkpoint.
    """
    import torch

    from weft.backbones.load import check_device
    from weft.cli.progress import steps_progress
    from weft.pretraining.backbone import pretrain_backbone
    from weft.pretraining.recipe import load_pretrain_recipe

    loaded = load_pretrain_recipe(recipe)
    check_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    with steps_progress("blocks") as report:
        result = pretrain_backbone(loaded, out, data=data, device=device, report=report)
    echo(
        f"{result.folder}: {result.parameters:,} parameters, {result.tokens:,} tokens read, perplexity "
        f"{result.perplexity:.2f} on held-out titles (untrained {result.perplexity_before:,.0f})"
    )
    sys.stdout.flush()
