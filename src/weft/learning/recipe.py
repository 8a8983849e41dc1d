"""A merge recipe whose weights are learned, as the command has it: its parts say the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from weft.artifacts.atomic import read_json
from weft.backbones.load import named_backbone
from weft.data.catalogue import FILE as CATALOGUE
from weft.data.catalogue import load_catalogue
from weft.errors import MismatchError, NotFoundError, SettingError, notice
from weft.learning.collaborative import CollaborativeWeights, learn_collaborative
from weft.learning.optimise import LearningRun
from weft.learning.part_models import Reading
from weft.learning.settings import CollaborativeSettings
from weft.merging.paths import is_adapter, locate
from weft.merging.plan import plan_recipe
from weft.merging.recipe import MergeRecipe
from weft.merging.vocabulary.rules import ROWS
from weft.recommenders.kinds import recommender_settings
from weft.recommenders.text.bi_encoder import BiEncoderSettings

MANIFEST = "weft.json"


def learn_recipe(
    recipe: MergeRecipe,
    settings: CollaborativeSettings,
    catalogues: Sequence[Path | str] = (),
    *,
    seed: int = 0,
    device: str = "cpu",
    run: LearningRun | None = None,
) -> CollaborativeWeights:
    """Learn the weights of a recipe from catalogues, by the settings' method. The outcome has the
    recipe with these weights.

    `catalogues` are one file of items for each part; without them those in the parts' own folders
    are taken. The parts' `weft.json` say how they read items, and what they were trained from where
    the recipe names no base.

    Raises `SettingError` for a recipe whose weights can't be learned, `NotFoundError` where a
    catalogue is missing, and as `learn_collaborative` does.
    """
    if any(part.slices for part in recipe.parts):
        raise SettingError("--learn takes whole models, not slices of them")
    if recipe.base is not None and not isinstance(recipe.base, str):
        raise SettingError("--learn needs one base, a folder")
    if recipe.tokenizer is not None and recipe.tokenizer.source != ROWS:
        raise SettingError(
            "weights are learned of parts with one vocabulary: --learn takes no --tokenizer but rows"
        )
    parts = [locate(part.path) for part in recipe.parts]
    files = _catalogues(parts, [Path(one) for one in catalogues])
    recommender, named = _described(parts)
    backbone = recipe.backbone or named
    if is_adapter(parts[0]):
        # Of adapters that PEFT wrote, the base says which weights their backbone is.
        backbone = recipe.base or backbone
        if backbone is None:
            raise SettingError(
                "--learn needs --base: the backbone that the adapters were trained on"
            )
    else:  # checkpoints: measured from what they were
        if (base := recipe.base or backbone) is None:
            raise SettingError("--learn needs --base: the model that the parts were trained from")
        recipe = recipe.model_copy(update={"base": base})
    recipe = recipe.model_copy(update={"method": settings.method})
    return learn_collaborative(
        plan_recipe(recipe),
        [load_catalogue(file) for file in files],
        settings,
        reading=Reading(recommender, backbone, device=device),
        seed=seed,
        run=run,
    )


def _catalogues(parts: Sequence[Path], files: Sequence[Path]) -> list[Path]:
    """The catalogues' files, or the parts' own folders."""
    lacking = next((path for path in parts if not (path / CATALOGUE).is_file()), None)
    if not files and lacking is not None:
        raise NotFoundError(f"--learn needs --catalogues: {lacking} has no {CATALOGUE} of its own")
    return list(files or parts)


def _described(parts: Sequence[Path]) -> tuple[BiEncoderSettings, str | None]:
    """How the parts read items, and the backbone that they name, by their manifests."""
    manifests = [_manifest(path) for path in parts]
    backbone = next(
        (
            named_backbone(manifest["backbone"]["name"], path / MANIFEST)
            for path, manifest in zip(parts, manifests, strict=True)
            if "backbone" in manifest
        ),
        None,
    )
    stated = [
        (path, manifest["recommender"])
        for path, manifest in zip(parts, manifests, strict=True)
        if "recommender" in manifest
    ]
    if not stated:
        notice("no part says in weft.json how it reads items: titles, in the default way")
        return BiEncoderSettings(), backbone
    first, described = stated[0]
    for path, other in stated:
        if other != described:
            raise MismatchError(f"{path} reads items otherwise than {first} ({MANIFEST})")
    settings = recommender_settings(described)
    if not isinstance(settings, BiEncoderSettings):
        raise MismatchError(f"--learn merges bi-encoders, and {first} is a {settings.kind}")
    return settings, backbone


def _manifest(folder: Path) -> Mapping[str, Any]:
    content = read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else {}
    return content if isinstance(content, dict) else {}
