"""A merge as a file: what goes in, by which method, with which weights.

The same recipe, resolved to plain numbers, stands in the manifest of what it made; merging again
by it gives the same bits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, PositiveInt, model_validator

from weft.artifacts.documents import read_json, read_object
from weft.artifacts.yaml_documents import read_mapping
from weft.backbones.load import KNOWN, find_backbone
from weft.data.source import checked
from weft.errors import WeftError, notice
from weft.merging.vocabulary.rules import TokenizerRules
from weft.merging.weights import WeightSpec, weight_spec
from weft.names import Name
from weft.settings import StrictModel

Dtype = Literal["float32", "float16", "bfloat16"]
SHARD_SIZE = "5GB"

_UNITS = {"": 1, "B": 1} | {
    f"{letter}{kind}": base**power
    for power, letter in enumerate("KMGT", start=1)
    for kind, base in (("B", 1000), ("iB", 1024))
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")


def bytes_of(size: str | int) -> int:
    """'5GB', '512 MiB' or a number of bytes; KB is 1000 bytes, KiB 1024."""
    match = _SIZE.fullmatch(str(size))
    units = {unit.lower(): factor for unit, factor in _UNITS.items()}
    if match is None or match[2].lower() not in units:
        raise WeftError(f"'{size}' is no size in bytes; say for example 5GB or 512MiB")
    count = int(float(match[1]) * units[match[2].lower()])
    if count < 1:
        raise WeftError(f"a size of '{size}' holds nothing")
    return count


def _size(value: Any) -> str:
    try:
        bytes_of(value)
    except WeftError as error:
        raise ValueError(str(error)) from None
    return str(value)


def _weight(value: Any) -> WeightSpec | None:
    return None if value is None else weight_spec(value)


class _Block(StrictModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


OwnOption = Annotated[WeightSpec | None, BeforeValidator(_weight)]
PART_OPTIONS = ("density", "gamma", "drop_rate", "window")


class SliceSpec(_Block):
    """Layers of a checkpoint, from the first number to before the second."""

    path: str = Field(min_length=1)
    layers: tuple[int, int]

    @model_validator(mode="after")
    def _is_a_range(self) -> SliceSpec:
        if not 0 <= self.layers[0] < self.layers[1]:
            raise ValueError(f"layers {list(self.layers)} is no range: [first, last + 1]")
        return self


class StackSpec(_Block):
    """A checkpoint made of layers of others (`weft.merging.stacked`)."""

    slices: tuple[SliceSpec, ...] = Field(min_length=1)


class PartSpec(_Block):
    """One part: a checkpoint's folder or file, an adapter's folder, or slices of checkpoints."""

    path: str = ""
    slices: tuple[SliceSpec, ...] | None = Field(default=None, min_length=1)
    weight: Annotated[WeightSpec | None, BeforeValidator(_weight)] = None
    name: Name | None = Field(default=None, description="the folder's unless given")
    # Options of the method for this part alone; what it has of the method's own unless given.
    density: OwnOption = None
    gamma: OwnOption = None
    drop_rate: OwnOption = None
    window: OwnOption = None

    @model_validator(mode="after")
    def _one_place(self) -> PartSpec:
        if bool(self.path) == bool(self.slices):
            raise ValueError("a part has a path or slices, one of them")
        return self

    @property
    def options(self) -> dict[str, WeightSpec]:
        """The options that this part has a value of its own for."""
        found = {name: getattr(self, name) for name in PART_OPTIONS}
        return {name: value for name, value in found.items() if value is not None}


class MeanOf(_Block):
    """A base that is the mean of checkpoints."""

    mean_of: tuple[str, ...] = Field(min_length=1)


class MergeRecipe(_Block):
    """What `weft merge RECIPE` does."""

    method: str | dict[str, Any] = "linear"
    parts: tuple[PartSpec, ...] = Field(min_length=1)
    base: str | MeanOf | StackSpec | None = None
    space: Literal["delta", "factors"] | None = None
    rank: PositiveInt | None = None
    union: bool = Field(default=False, description="adapters may have few modules in common")
    dtype: Dtype | None = None
    tokenizer: TokenizerRules | None = None
    backbone: str | None = Field(
        default=None, min_length=1, description="the model of all adapters, whatever they name"
    )
    round_to: Dtype | Literal["stored"] | None = Field(
        default=None,
        description="what is read and its differences from the base are rounded before they are "
        "ranked; stored: differences alone, to the dtype of the base",
    )
    shard_size: Annotated[str, BeforeValidator(_size)] = SHARD_SIZE
    out: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _paths_alone(cls, values: Any) -> Any:
        """A part may be only a path."""
        if not isinstance(values, Mapping) or not isinstance(values.get("parts"), list | tuple):
            return values
        parts = [{"path": one} if isinstance(one, str) else one for one in values["parts"]]
        return {**values, "parts": parts}

    @model_validator(mode="after")
    def _all_weights_or_none(self) -> MergeRecipe:
        lacking = [part.path or part.name or "slices" for part in self.parts if part.weight is None]
        if 0 < len(lacking) < len(self.parts):
            raise ValueError(f"part '{lacking[0]}' has no weight, but others have one")
        return self

    @property
    def options(self) -> list[dict[str, WeightSpec]] | None:
        """The parts' own options of the method, or None where no part has one."""
        found = [part.options for part in self.parts]
        return found if any(found) else None

    @property
    def weights(self) -> list[WeightSpec] | None:
        """One for each part, or None for the method's own."""
        found = [part.weight for part in self.parts if part.weight is not None]
        return found or None

    def plain(self) -> dict[str, Any]:
        """The recipe as JSON, without what is not said."""
        said = self.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        return {"method": self.method, **said}


def load_merge_recipe(path: Path, notice: Callable[[str], None] = notice) -> MergeRecipe:
    """Read a recipe: weft's own, mergekit's, or a merge's manifest (`weft.json`), to replay it.

    Relative paths are relative to the file; mergekit's, where there is nothing, to the working
    folder. What of a mergekit file has no effect goes to `notice`, a `WeftNotice` unless given.
    What is wrong with a recipe is one `WeftError` that names file and key.
    """
    from weft.merging.methods import make_method

    path = Path(path)
    values = _read(path)
    try:
        if "merge_method" in values:
            from weft.merging.mergekit.recipe import translate

            recipe = translate(values, notice, _layers_of(path.parent))
        elif "experts" in values:
            raise WeftError("experts: weft makes no mixtures of experts (mergekit-moe)")
        else:
            recipe = checked(MergeRecipe, _of_manifest(values))
        make_method(recipe.method)
    except WeftError as error:
        raise WeftError(f"{path}: {error}") from None
    # mergekit's own paths are relative to where it is run.
    return _beside(recipe, path.parent, or_here="merge_method" in values)


def _layers_of(folder: Path) -> Callable[[str], int | None]:
    """How many layers a model named in a mergekit file has, where its config.json says so."""

    def count(path: str) -> int | None:
        for place in (locate(path, folder), locate(path)):
            if (place / "config.json").is_file():
                config = read_json(place / "config.json")
                found = config.get("num_hidden_layers") if isinstance(config, dict) else None
                return found if isinstance(found, int) else None
        return None

    return count


def _read(path: Path) -> dict[str, Any]:
    return read_object(path) if path.suffix == ".json" else read_mapping(path)


def _of_manifest(values: dict[str, Any]) -> dict[str, Any]:
    merge = values.get("merge")
    if not isinstance(merge, dict) or "parts" in values:
        return values
    recipe: dict[str, Any] = merge.get("recipe", merge)  # an adapter's manifest says more
    if not all("path" in part or "slices" in part for part in recipe.get("parts", [{}])):
        raise WeftError("this manifest does not say where the parts of its merge were")
    return recipe


def _beside(recipe: MergeRecipe, folder: Path, *, or_here: bool) -> MergeRecipe:
    """The recipe with its relative paths turned into those beside the file."""

    def there(path: str) -> str:
        found = locate(path, folder)
        return str(locate(path) if or_here and not found.exists() else found)

    def sliced(slices: tuple[SliceSpec, ...]) -> tuple[SliceSpec, ...]:
        return tuple(one.model_copy(update={"path": there(one.path)}) for one in slices)

    base = recipe.base
    if isinstance(base, MeanOf):
        base = MeanOf(mean_of=tuple(map(there, base.mean_of)))
    elif isinstance(base, StackSpec):
        base = StackSpec(slices=sliced(base.slices))
    elif base is not None:
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


def locate(path: str | Path, folder: Path = Path()) -> Path:
    """A path relative to a folder; else a backbone's short name (minilm), or an `owner/name` in
    the Hugging Face cache."""
    there = folder / Path(path).expanduser()
    if not there.exists() and str(path) in KNOWN:
        return find_backbone(str(path))
    if not there.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        with suppress(HFValidationError, LocalEntryNotFoundError):
            return Path(snapshot_download(str(path), local_files_only=True))
    return there
