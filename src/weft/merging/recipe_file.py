"""Reading a merge recipe: weft's own, mergekit's, or the manifest of a merge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from weft.artifacts.documents import read_json
from weft.errors import DataError, SettingError, located, notice
from weft.merging.methods.registry import make_method
from weft.merging.paths import locate
from weft.merging.recipe import MeanOf, MergeRecipe, SliceSpec, StackSpec
from weft.recipes.purposes import MERGE, check_purpose
from weft.settings import validate
from weft.settings.files import read_mapping


def load_merge_recipe(path: Path | str, notice: Callable[[str], None] = notice) -> MergeRecipe:
    """Read a recipe: weft's own, mergekit's, or a merge's manifest (`weft.json`), to replay it.

    Relative paths are relative to the file; mergekit's, where there is nothing, to the working
    folder. What of a mergekit file has no effect goes to `notice`, by default as a `WeftNotice`.
    What is wrong with a recipe is one `WeftError` that names file and key.
    """
    path = Path(path)
    values = read_mapping(path)
    with located(path):
        check_purpose(values, MERGE)
        if "merge_method" in values:
            from weft.merging.mergekit.recipe import translate

            recipe = translate(values, notice, _layers_of(path.parent))
        elif "experts" in values:
            raise SettingError("experts: weft makes no mixtures of experts (mergekit-moe)")
        else:
            recipe = validate(MergeRecipe, _of_manifest(values))
        make_method(recipe.method)
    # mergekit's own paths are relative to where it is run.
    return _beside(recipe, path.parent, or_here="merge_method" in values)


def _layers_of(folder: Path) -> Callable[[str], int | None]:
    """How many layers a model named in a mergekit file has, where its config.json says so."""

    def count(path: str) -> int | None:
        for place in (locate(path, folder), locate(path)):
            if (place / "config.json").is_file():
                config = read_json(place / "config.json")
                layers = config.get("num_hidden_layers") if isinstance(config, dict) else None
                return layers if isinstance(layers, int) else None
        return None

    return count


def _of_manifest(values: dict[str, Any]) -> dict[str, Any]:
    merge = values.get("merge")
    if not isinstance(merge, dict) or "parts" in values:
        return values
    recipe: dict[str, Any] = merge.get("recipe", merge)  # an adapter's manifest says more
    if not all("path" in part or "slices" in part for part in recipe.get("parts", [{}])):
        raise DataError("this manifest does not say where the parts of its merge were")
    return recipe


def _beside(recipe: MergeRecipe, folder: Path, *, or_here: bool) -> MergeRecipe:
    """The recipe with its relative paths turned into those beside the file."""

    def there(path: str) -> str:
        place = locate(path, folder)
        return str(locate(path) if or_here and not place.exists() else place)

    def sliced(slices: tuple[SliceSpec, ...]) -> tuple[SliceSpec, ...]:
        return tuple(one.model_copy(update={"path": there(one.path)}) for one in slices)

    base = recipe.base
    if isinstance(base, MeanOf):
        base = MeanOf(mean_of=tuple(map(there, base.mean_of)))
    elif isinstance(base, StackSpec):
        base = StackSpec(slices=sliced(base.slices))
    elif isinstance(base, str):
        base = there(base)
    parts = tuple(
        one.model_copy(
            update={"path": there(one.path)}
            if one.slices is None
            else {"slices": sliced(one.slices)}
        )
        for one in recipe.parts
    )
    names = {one.name for one in recipe.parts}
    tokenizer = recipe.tokenizer
    if tokenizer is not None:
        tokenizer = tokenizer.renamed(lambda name: name if name in names else there(name))
    out = None if recipe.out is None else str(folder / Path(recipe.out).expanduser())
    return recipe.model_copy(
        update={"parts": parts, "base": base, "tokenizer": tokenizer, "out": out}
    )
