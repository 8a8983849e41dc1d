"""`weft fold`: an adapter and its backbone as one full checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def fold(
    adapter: Annotated[Path, typer.Argument(help="An adapter's folder.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="New folder of the checkpoint.")],
    base: Annotated[
        Path | None, typer.Option(help="The backbone's folder; the one that the adapter names.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; the backbone's unless given.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="All cores unless given.")] = None,
) -> None:
    """Add an adapter to its backbone and write the full checkpoint, with tokenizer and
    configuration: it loads in transformers with nothing else."""
    import torch

    from weft.adapters import load_adapter
    from weft.artifacts.atomic import check_folder
    from weft.backbones import find_backbone
    from weft.backbones.load import fingerprint_of
    from weft.errors import WeftError
    from weft.merging.algebra import weights

    check_folder(out, new=True)
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype is not None and dtype not in known:
        raise WeftError(f"--dtype is one of {', '.join(known)}, not {dtype}")
    said = load_adapter(adapter, lazy=True).manifest["backbone"]
    folder = base or find_backbone(said["name"])
    there = fingerprint_of(folder) if folder.is_dir() else ""
    if not said["fingerprint"].startswith("name:") and said["fingerprint"] != there:
        raise WeftError(
            f"the adapter {adapter} belongs to backbone {said['name']} "
            f"({said['fingerprint'][:12]}…), not to {folder} ({there[:12] or 'no folder'}…)"
        )
    whole = weights(folder) + weights(adapter)
    whole.save(out, known[dtype] if dtype else None, threads=threads)
    typer.echo(f"wrote {out}")
