"""`weft run` and `weft demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weft.cli.out import echo, say

if TYPE_CHECKING:
    from weft.systems.recipe import StudyRecipe

Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Worker processes. Default: one for each core; one on a GPU."),
]

DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Print what there is to do and how long it takes, then stop."),
]


def demo_command(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/demo"),
    workers: Workers = None,
    dry_run: DryRun = False,
) -> None:
    """Weave four small generated domains, start to end, in a few minutes."""
    from importlib.resources import files

    from weft.systems.registry import load_recipe

    recipe = load_recipe(Path(str(files("weft") / "recipes" / "demo.yaml")))
    _run(recipe, out, None, workers, None, dry_run)
    if dry_run:
        return
    echo(
        "\nAsk the woven recommender for someone it has never seen:\n"
        f"  weft recommend --model {out}/recommenders/kitchen/weaverec"
        " --history 'Cast Iron Skillet' -k 5"
    )


def run_command(
    recipe: Annotated[
        Path, typer.Argument(help="A recipe: a file, or a name that `weft recipes` lists.")
    ],
    data: Annotated[
        Path | None, typer.Option(help="Folder that holds the domains' folders.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run. Default: runs/<recipe's file name>.")
    ] = None,
    workers: Workers = None,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda. Default: cuda where there is one.")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Run a recipe; stages that are done already are not done again."""
    from weft.systems.registry import load_recipe

    _run(load_recipe(recipe), out or Path("runs") / recipe.stem, data, workers, device, dry_run)


def _run(
    recipe: StudyRecipe,
    out: Path,
    data: Path | None,
    workers: int | None,
    device: str | None,
    dry: bool,
) -> None:
    from weft.artifacts.atomic import check_folder
    from weft.backbones.load import check_device
    from weft.cli.stage_progress import StageProgress
    from weft.cli.stopping import Stopped, stopping_signals
    from weft.report.terminal import render_terminal
    from weft.systems.runner import dry_run, run

    check_folder(out)
    if device is not None:
        check_device(device)
    if dry:
        estimate = dry_run(recipe, out, data=data, workers=workers, device=device)
        echo("\n".join(estimate.lines()))
        return
    progress = StageProgress()
    with stopping_signals():
        try:
            with progress:
                report = run(
                    recipe, out, data=data, workers=workers, device=device,
                    watch=progress.watch, planned=progress.planned,
                )  # fmt: skip
        except Stopped as stop:
            say(f"weft: {progress.tracker.summary}; the same command goes on")
            raise SystemExit(stop.exit_code) from None
    render_terminal(report)
    echo(f"\nreport: {out / 'report.html'}")
