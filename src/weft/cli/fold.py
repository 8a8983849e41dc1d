"""`weft fold`: an adapter and its backbone as one full checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from weft.cli.out import echo


def fold_command(
    adapter: Annotated[
        str, typer.Argument(help="An adapter's folder, or its name in the Hugging Face cache.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="New folder of the checkpoint.")],
    base: Annotated[
        Path | None,
        typer.Option(help="The backbone's folder. Default: the one that the adapter names."),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16. Default: the backbone's.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads. Default: all cores.")] = None,
) -> None:
    """Add an adapter to its backbone and write the full checkpoint, with tokenizer and
    configuration: it loads in transformers with nothing else."""
    from weft.merging.folding.fold import fold

    echo(f"wrote {fold(adapter, out, base=base, dtype=dtype, threads=threads)}")
