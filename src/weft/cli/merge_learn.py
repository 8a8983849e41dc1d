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

    from weft.learning.collaborative import CollaborativeSettings
    from weft.learning.sources import Collaborated
    from weft.merging.recipe import MergeRecipe
    from weft.recommenders.bi_encoder import BiEncoderSettings

WAY = "collaborative"


def learned(
    recipe: MergeRecipe, learn: str, catalogues: Sequence[str], note: Callable[[str], None]
) -> MergeRecipe:
    """The recipe with the weights that were learned; `learn` is `collaborative` or the path of a
    YAML file with its settings (and a `seed`).

    Without `catalogues`, those in the parts' own folders are taken. Raises `WeftError` for what
    can't be learned.
    """
    import torch

    from weft.data.catalogue import load_catalogue
    from weft.errors import WeftError
    from weft.learning.sources import learn_collaborative
    from weft.merging.checkpoint import ADAPTER
    from weft.merging.recipe import locate

    settings, seed = _asked(learn, recipe.method)
    if any(part.slices for part in recipe.parts):
        raise WeftError("--learn takes whole models, not slices of them")
    parts = [locate(part.path) for part in recipe.parts]
    files = _catalogues(parts, catalogues)
    if recipe.base is not None and not isinstance(recipe.base, str):
        raise WeftError("--learn needs one base, a folder")
    reading, backbone = _reading(parts, note)
    backbone = recipe.backbone or backbone
    if (parts[0] / ADAPTER[0]).is_file():
        # Of adapters that PEFT wrote, the base says which weights their backbone is.
        if recipe.base is None and backbone is None:
            raise WeftError("--learn needs --base: the backbone that the adapters were trained on")
        how: dict[str, Any] = {"backbone": recipe.base or backbone, "base": recipe.base}
    else:  # checkpoints: measured from what they were
        base = recipe.base or backbone
        if base is None:
            raise WeftError("--learn needs --base: the model that the parts were trained from")
        how = {"base": str(locate(base))}
        recipe = recipe.model_copy(update={"base": base})
    with _bar() as report:
        found = learn_collaborative(
            parts,
            [load_catalogue(file) for file in files],
            reading,
            settings,
            labels=[part.name for part in recipe.parts],
            union=recipe.union,
            one_backbone=recipe.backbone,
            tokenizer=recipe.tokenizer,
            seed=seed,
            device="cuda" if torch.cuda.is_available() else "cpu",
            report=report,
            **how,
        )
    _tell(found, note)
    weighted = tuple(
        part.model_copy(update={"weight": _weight(spec)})
        for part, spec in zip(recipe.parts, found.specs, strict=True)
    )
    return recipe.model_copy(update={"parts": weighted, "method": settings.method})


def _asked(learn: str, method: Any) -> tuple[CollaborativeSettings, int]:
    """(settings, seed); the method is the file's, or the command's."""
    from weft.data.source import checked
    from weft.errors import WeftError
    from weft.learning.collaborative import CollaborativeSettings

    values = _settings(learn)
    seed = values.pop("seed", 0)
    if not isinstance(seed, int):
        raise WeftError(f"{learn}: seed must be a whole number, not {seed!r}")
    method = values.pop("method", None) or method
    if method in ("linear", {"name": "linear"}):  # the option's default
        method = "task_arithmetic"
    return checked(CollaborativeSettings, values | {"method": method}), seed


def _catalogues(parts: Sequence[Path], given: Sequence[str]) -> list[Path]:
    """The catalogues' files, or the parts' own folders."""
    from weft.data.catalogue import FILE
    from weft.errors import WeftError

    lacking = next((path for path in parts if not (path / FILE).is_file()), None)
    if not given and lacking is not None:
        raise WeftError(f"--learn needs --catalogues: {lacking} has no {FILE} of its own")
    return [Path(one) for one in given] or list(parts)


def _tell(found: Collaborated, note: Callable[[str], None]) -> None:
    for said in found.notes:
        note(said)
    held = [value for _, _, value in found.learned.curve if value is not None]
    if held:
        note(f"the objective on held-out items went from {held[0]:.4g} to {held[-1]:.4g}")
    if not isinstance(found.specs[0], list):
        note("learned weights: " + ", ".join(f"{spec:.4f}" for spec in found.specs))


def _weight(spec: Any) -> Any:
    from weft.merging.weights import weight_spec

    return weight_spec(spec)


def _settings(learn: str) -> dict[str, Any]:
    from weft.artifacts.yaml_documents import read_mapping
    from weft.errors import WeftError

    if learn == WAY:
        return {}
    path = Path(learn)
    if path.suffix not in (".yaml", ".yml"):
        raise WeftError(f"--learn takes {WAY} or a YAML file of its settings, not '{learn}'")
    return read_mapping(path)


def _reading(
    parts: Sequence[Path], note: Callable[[str], None]
) -> tuple[BiEncoderSettings, str | None]:
    """How the parts read items, and the backbone that they are adapters of, as they say it."""
    from weft.artifacts.atomic import read_json
    from weft.backbones.load import named_backbone
    from weft.errors import WeftError
    from weft.recommenders.bi_encoder import BiEncoderSettings
    from weft.recommenders.kinds import recommender_settings

    said: list[dict[str, Any]] = []
    for path in parts:
        manifest = read_json(path / "weft.json") if (path / "weft.json").is_file() else {}
        said.append(manifest if isinstance(manifest, dict) else {})
    known = [(path, one["recommender"]) for path, one in zip(parts, said, strict=True)
             if "recommender" in one]  # fmt: skip
    for path, one in known:
        if one != known[0][1]:
            raise WeftError(f"{path} reads items otherwise than {known[0][0]} (weft.json)")
    backbone = next(
        (named_backbone(one["backbone"]["name"], path / "weft.json")
         for path, one in zip(parts, said, strict=True) if "backbone" in one), None,
    )  # fmt: skip
    if not known:
        note("no part says in weft.json how it reads items: titles, in the default way")
        return BiEncoderSettings(), backbone
    settings = recommender_settings(known[0][1])
    if not isinstance(settings, BiEncoderSettings):
        raise WeftError(f"--learn merges bi-encoders, and {known[0][0]} is a {settings.kind}")
    return settings, backbone


@contextmanager
def _bar() -> Iterator[Callable[[int, int, float], None] | None]:
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
