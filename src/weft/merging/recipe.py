"""A merge as one object: what goes in, by which method, with which weights.

A recipe is read from a file (`weft.merging.recipe_file`), or made of objects in Python
(`MergeRecipe.of`). The same recipe, resolved to plain numbers, stands in the manifest of what comes
out; merging again by it gives the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias, TypedDict, Unpack

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    PositiveInt,
    PrivateAttr,
    model_validator,
)

from weft.errors import SettingError
from weft.merging.methods.registry import make_method
from weft.merging.paths import bytes_of
from weft.merging.vocabulary.rules import TokenizerRules
from weft.merging.weights import WeightSpec, check_count, weight_spec
from weft.names import Name
from weft.settings import StrictModel, field_errors, validate

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from weft.adapters.adapter import Adapter
    from weft.merging.checkpoints.layer_stack import Stack
    from weft.merging.engine.method import Method
    from weft.merging.engine.source import TensorSource

    Part: TypeAlias = str | Path | Adapter | Mapping[str, Tensor] | TensorSource | Stack
    Base: TypeAlias = (
        "str | Path | Mapping[str, Tensor] | TensorSource | MeanOf | Stack | Sequence[str | Path]"
    )

Space = Literal["delta", "factors"]
SHARD_SIZE = "5GB"
_DTYPES = (
    *("float32", "float16", "bfloat16", "float64"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
)


def _size(value: Any) -> str:
    with field_errors():
        bytes_of(value)
    return str(value)


def _weight(value: Any) -> WeightSpec | None:
    return None if value is None else weight_spec(value)


def _dtype(value: Any) -> Any:
    name = str(value).removeprefix("torch.")
    if value is not None and name not in _DTYPES:
        raise ValueError(f"'{name}' is no dtype of weights; say float32, float16 or bfloat16")
    return None if value is None else name


def _rounding(value: Any) -> Any:
    return value if value == "stored" else _dtype(value)


def _method(value: Any) -> Any:
    if isinstance(value, str | Mapping):
        return value
    with field_errors():
        return make_method(value)


class _Section(StrictModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


PartOption = Annotated[WeightSpec | None, BeforeValidator(_weight)]
PART_OPTIONS = ("density", "gamma", "drop_rate", "window")


class SliceSpec(_Section):
    """Layers of a checkpoint, from the first number to before the second."""

    path: str = Field(min_length=1)
    layers: tuple[int, int]

    @model_validator(mode="after")
    def _is_a_range(self) -> SliceSpec:
        if not 0 <= self.layers[0] < self.layers[1]:
            raise ValueError(f"layers {list(self.layers)} is no range: [first, last + 1]")
        return self


class StackSpec(_Section):
    """A checkpoint made of layers of others (`weft.merging.checkpoints.layer_stack`)."""

    slices: tuple[SliceSpec, ...] = Field(min_length=1)


class PartSpec(_Section):
    """One part: a checkpoint's folder or file, an adapter's folder, or slices of checkpoints."""

    in_memory: ClassVar[bool] = False

    path: str = ""
    slices: tuple[SliceSpec, ...] | None = Field(default=None, min_length=1)
    weight: Annotated[WeightSpec | None, BeforeValidator(_weight)] = None
    name: Name | None = Field(default=None, description="by default the folder's")
    # Options of the method for this part alone; by default it has the method's own.
    density: PartOption = None
    gamma: PartOption = None
    drop_rate: PartOption = None
    window: PartOption = None

    @model_validator(mode="after")
    def _one_place(self) -> PartSpec:
        if bool(self.path) + bool(self.slices) + self.in_memory != 1:
            raise ValueError("a part has a path or slices, one of them")
        return self

    @property
    def options(self) -> dict[str, WeightSpec]:
        """The options that this part has a value of its own for."""
        values = {name: getattr(self, name) for name in PART_OPTIONS}
        return {name: value for name, value in values.items() if value is not None}


class LoadedPart(PartSpec):
    """A part that lies in memory: an `Adapter`, tensors by name, or a `TensorSource`. Only Python can
    name one; a recipe that is written down has its label alone."""

    in_memory: ClassVar[bool] = True

    _content: Any = PrivateAttr()

    @classmethod
    def of(cls, content: Any, **values: Any) -> LoadedPart:
        part = validate(cls, values)
        part._content = content
        return part

    @property
    def content(self) -> Any:
        return self._content


class MeanOf(_Section):
    """A base that is the mean of checkpoints."""

    mean_of: tuple[str, ...] = Field(min_length=1)


class LoadedBase:
    """A base that lies in memory: tensors by name, or a `TensorSource`."""

    def __init__(self, content: Any) -> None:
        self.content = content


class RecipeKeywords(TypedDict, total=False):
    """What a merge takes by name, beside parts, method, weights and base; see `weft.merge`."""

    space: Space
    rank: int | None
    dtype: torch.dtype | str | None
    labels: Sequence[str | None] | None
    union: bool
    options: Sequence[Mapping[str, Any]] | None
    tokenizer: TokenizerRules | str | Mapping[str, Any] | None
    backbone: str | None
    round_to: torch.dtype | str | None
    shard_bytes: int


class MergeRecipe(_Section):
    """What `weft merge RECIPE` does."""

    method: Annotated[Any, BeforeValidator(_method)] = "linear"
    parts: tuple[PartSpec, ...] = Field(min_length=1)
    base: str | MeanOf | StackSpec | InstanceOf[LoadedBase] | None = None
    space: Space | None = None
    rank: PositiveInt | None = None
    union: bool = Field(default=False, description="adapters may have few modules in common")
    dtype: Annotated[str | None, BeforeValidator(_dtype)] = None
    tokenizer: TokenizerRules | None = None
    backbone: str | None = Field(
        default=None, min_length=1, description="the model of all adapters, whatever they name"
    )
    round_to: Annotated[str | None, BeforeValidator(_rounding)] = Field(
        default=None,
        description="what is read and its differences from the base are rounded before they are "
        "ranked; stored: differences alone, to the dtype of the base",
    )
    shard_size: Annotated[str, BeforeValidator(_size)] = SHARD_SIZE
    out: str | None = None

    @classmethod
    def of(
        cls,
        parts: Sequence[Part],
        method: str | Mapping[str, Any] | Method = "linear",
        weights: Sequence[Any] | None = None,
        *,
        base: Base | None = None,
        **settings: Unpack[RecipeKeywords],
    ) -> MergeRecipe:
        """The recipe of a call of `weft.merge`, with its arguments.

        >>> recipe = MergeRecipe.of(["books", "toys"], "ties", [0.5, [0, 1]], base="bert")
        >>> recipe.weights, recipe.base
        ([0.5, (0.0, 1.0)], 'bert')
        """
        more: dict[str, Any] = dict(settings)
        labels, options = more.pop("labels", None), more.pop("options", None)
        if "shard_bytes" in more:
            more["shard_size"] = more.pop("shard_bytes")
        specs = _part_specs(parts, weights, labels, options)
        values = {"method": method, "parts": specs, "base": _base_spec(base)}
        return validate(cls, values | more)

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
        options = [part.options for part in self.parts]
        return options if any(options) else None

    @property
    def weights(self) -> list[WeightSpec] | None:
        """One for each part, or None for the method's own."""
        weights = [part.weight for part in self.parts if part.weight is not None]
        return weights or None


def check_listed(parts: Sequence[Part]) -> None:
    """A `SettingError` for what is no list of parts, or an empty one."""
    if isinstance(parts, str | Path | Mapping) or not parts:
        raise SettingError("a merge needs a list of at least one part")


def _part_specs(
    parts: Sequence[Part],
    weights: Sequence[Any] | None,
    labels: Sequence[str | None] | None,
    options: Sequence[Mapping[str, Any]] | None,
) -> list[PartSpec]:
    check_listed(parts)
    count = len(parts)
    names = list(labels) if labels is not None else [None] * count
    if len(names) != count:
        raise SettingError(f"{count} parts need {count} names, not {len(names)}")
    if weights is not None:
        check_count(weights, count)
    if options is not None and len(options) != count:
        raise SettingError(f"{count} parts need {count} sets of options, not {len(options)}")
    specs = []
    for k, part in enumerate(parts):
        values: dict[str, Any] = {"name": names[k], **(options[k] if options else {})}
        if weights is not None:
            label = names[k] or (Path(part).name if isinstance(part, str | Path) else "")
            try:
                values["weight"] = weight_spec(weights[k])
            except ValueError as error:
                label = label or f"part {k + 1}"
                raise SettingError(f"the weight of part '{label}': {error}") from None
        specs.append(_part_spec(part, values))
    return specs


def _part_spec(part: Part, values: dict[str, Any]) -> PartSpec:
    if isinstance(part, str | Path):
        return validate(PartSpec, {"path": str(part), **values})
    slices = getattr(part, "slices", None)
    if slices is not None:
        return validate(PartSpec, {"slices": _slice_specs(slices), **values})
    return LoadedPart.of(part, **values)


def _base_spec(base: Base | None) -> Any:
    if base is None or isinstance(base, str | MeanOf):
        return base
    if isinstance(base, Path):
        return str(base)
    slices = getattr(base, "slices", None)
    if slices is not None:
        return StackSpec(slices=tuple(_slice_specs(slices)))
    if isinstance(base, Sequence):
        return MeanOf(mean_of=tuple(str(path) for path in base))
    return LoadedBase(base)


def _slice_specs(slices: Sequence[Any]) -> list[SliceSpec]:
    return [SliceSpec(path=str(one.path), layers=(one.start, one.end)) for one in slices]
