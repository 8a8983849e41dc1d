"""`weft merge --learn`: weights from catalogues, for someone who has trained parts and nothing else."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft.cli.out import console as safe_console

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft.learning.optimise import Report
    from weft.learning.settings import CollaborativeSettings
    from weft.merging.recipe import MergeRecipe

DEFAULT = "collaborative"


def learned_recipe(
    recipe: MergeRecipe, learn: str, catalogues: Sequence[str], note: Callable[[str], None]
) -> MergeRecipe:
    """The recipe with the weights that were learned; `learn` is `collaborative` or the path of a
    YAML file with its settings (and a `seed`). `note` gets what a person should know.

    Without `catalogues`, those in the parts' own folders are taken. Raises `WeftError` for what
    can't be learned.
    """
    import torch

    from weft.learning.optimise import LearningRun
    from weft.learning.recipe import learn_recipe

    settings, seed = _settings(learn, recipe.method)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with _bar() as report:
        outcome = learn_recipe(
            recipe,
            settings,
            [Path(one) for one in catalogues],
            seed=seed,
            device=device,
            run=LearningRun(report=report),
        )
    for text in outcome.notes:
        note(text)
    if held_out := outcome.learned.held_out:
        note(f"the objective on held-out items went from {held_out[0]:.4g} to {held_out[-1]:.4g}")
    if len(outcome.groups) == 1:
        note("learned weights: " + ", ".join(f"{weight:.4f}" for weight in outcome.weights))
    return outcome.recipe


def _settings(learn: str, method: str | dict[str, Any]) -> tuple[CollaborativeSettings, int]:
    """(settings, seed); the method is the file's, or the command's."""
    from weft.errors import SettingError
    from weft.learning.settings import CollaborativeSettings
    from weft.settings import validate

    values = _content(learn)
    seed = values.pop("seed", 0)
    if not isinstance(seed, int):
        raise SettingError(f"{learn}: seed must be a whole number, not {seed!r}")
    method = values.pop("method", None) or method
    if method in ("linear", {"name": "linear"}):  # the option's default
        method = "task_arithmetic"
    return validate(CollaborativeSettings, values | {"method": method}), seed


def _content(learn: str) -> dict[str, Any]:
    from weft.errors import SettingError
    from weft.settings.files import read_mapping

    if learn == DEFAULT:
        return {}
    path = Path(learn)
    if path.suffix not in (".yaml", ".yml"):
        raise SettingError(f"--learn takes {DEFAULT} or a YAML file of its settings, not '{learn}'")
    return read_mapping(path)


@contextmanager
def _bar() -> Iterator[Report | None]:
    """A bar of steps on a terminal, else nothing."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Left

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Left())
    with Progress(*columns, console=safe_console(stderr=True), transient=True) as bar:
        task = bar.add_task("learning weights", total=None)
        yield lambda step, steps, _: bar.update(task, completed=step, total=steps)
