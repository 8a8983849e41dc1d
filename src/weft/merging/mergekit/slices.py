"""The models of a mergekit file: whole ones, or slices of their layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ConfigDict

from weft.errors import SettingError
from weft.merging.mergekit.forms import BaseUse
from weft.merging.mergekit.parameters import LayerSpan, Settings
from weft.settings import StrictModel

LayersOf = Callable[[str], int | None]


class FileSection(StrictModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Model(FileSection):
    model: Any
    parameters: dict[str, Any] | None = None


class SliceSource(Model):
    layer_range: tuple[int, int]


class OutputSlice(FileSection):
    sources: tuple[SliceSource, ...]
    base_model: Any = None
    residual_weight: Any = None
    parameters: dict[str, Any] | None = None


@dataclass(frozen=True)
class Listed:
    """Parts by name, with the parameters of each; `stacks` are those made of slices."""

    parts: tuple[str, ...]
    base: str | None
    spans: tuple[LayerSpan, ...]
    stacks: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)

    def place(self, part: str) -> dict[str, Any]:
        """Where a part is, as a recipe has it."""
        if part in self.stacks:
            return {"slices": self.stacks[part], "name": part}
        return {"path": part}


def whole_models(models: Sequence[Model], base: str | None, use: BaseUse) -> Listed:
    """Whole models; mergekit adds a base that is not among them, as the last one."""
    listed = _by_path(models)
    if base is not None and base not in listed:
        listed = {**listed, base: {}}
    return _listed((LayerSpan(None, listed, {}),), base, use, {})


def sliced_models(
    slices: Sequence[OutputSlice], base: str | None, use: BaseUse, layers_of: LayersOf
) -> Listed:
    """Slices; where they put every layer of every model where it is anyway, whole models."""
    if not slices:
        raise SettingError("slices: there is none")
    bases = [base if one.base_model is None else path_of(one.base_model) for one in slices]
    if use == "ignored":  # a model like any other
        bases = [None] * len(slices)
    sources = [_by_path(one.sources) for one in slices]
    for number, (one, models, origin) in enumerate(
        zip(slices, sources, bases, strict=True), start=1
    ):
        _check_slice(number, one, len(models), len(sources[0]))
        if use in ("origin", "part") and origin is None:
            raise SettingError(f"slice {number} needs a base_model")
        if origin is not None and origin not in models:
            raise SettingError(f"slice {number} does not take layers of its base_model '{origin}'")
    lengths = [one.sources[0].layer_range[1] - one.sources[0].layer_range[0] for one in slices]
    ends = [sum(lengths[: k + 1]) for k in range(len(lengths))]
    ranges = [(end - length, end) for end, length in zip(ends, lengths, strict=True)]
    same = all(models.keys() == sources[0].keys() for models in sources) and len(set(bases)) == 1
    in_place = all(
        source.layer_range == layers
        for one, layers in zip(slices, ranges, strict=True)
        for source in one.sources
    )
    if same and in_place and all(layers_of(p) in (None, ends[-1]) for p in sources[0]):
        spans = [
            LayerSpan(layers, models, one.parameters or {})
            for one, layers, models in zip(slices, ranges, sources, strict=True)
        ]
        return _listed(tuple(spans), bases[0], use, {})
    columns = _columns(slices, bases, same)
    spans = [
        LayerSpan(
            layers,
            {name: at[k].parameters or {} for name, at in columns.items()},
            one.parameters or {},
        )
        for k, (one, layers) in enumerate(zip(slices, ranges, strict=True))
    ]
    stacks = {
        name: [{"path": path_of(at.model), "layers": list(at.layer_range)} for at in column]
        for name, column in columns.items()
    }
    return _listed(tuple(spans), "base" if "base" in columns else None, use, stacks)


def _check_slice(number: int, one: OutputSlice, count: int, first: int) -> None:
    if one.residual_weight is not None:
        raise SettingError(
            f"slice {number}: residual_weight is read by nothing, in mergekit either"
        )
    if not count:
        raise SettingError(f"slice {number} has no sources")
    if count != first:
        raise SettingError(
            f"slice {number} merges {count} model{'s' * (count > 1)} and slice 1 {first}: weft "
            "merges the same number in every slice"
        )
    lengths = set()
    for source in one.sources:
        start, stop = source.layer_range
        if not 0 <= start < stop:
            raise SettingError(
                f"slice {number}: layer_range [{start}, {stop}] is no range of layers"
            )
        lengths.add(stop - start)
    if len(lengths) > 1:
        raise SettingError(f"slice {number} takes more layers of one model than of another")


def _columns(
    slices: Sequence[OutputSlice], bases: Sequence[str | None], same: bool
) -> dict[str, list[SliceSource]]:
    """Parts of stacked layers: of one model each where every slice has the same models, else the
    first source of every slice, the second, and so on; the base apart."""
    columns: dict[str, list[SliceSource]] = {}
    for one, base in zip(slices, bases, strict=True):
        others = [source for source in one.sources if path_of(source.model) != base]
        origin = [source for source in one.sources if path_of(source.model) == base]
        for place, source in enumerate(others, start=1):
            name = path_of(source.model) if same else f"part {place}"
            columns.setdefault(name, []).append(source)
        for source in origin:
            columns.setdefault("base", []).append(source)
    if any(len(column) < len(slices) for column in columns.values()):
        raise SettingError("the base_model is among the sources of some slices only")
    return columns


def _listed(
    spans: tuple[LayerSpan, ...],
    base: str | None,
    use: BaseUse,
    stacks: Mapping[str, list[dict[str, Any]]],
) -> Listed:
    """The parts in weft's order: a base that is a part comes first, one that is the others'
    origin is none."""
    parts = tuple(spans[0].models)
    if base is not None and base in parts:
        if use in ("origin", "optional"):
            parts = tuple(part for part in parts if part != base)
        elif use == "part":
            parts = (base, *(part for part in parts if part != base))
    if not parts:
        raise SettingError("there is no model to merge beside the base_model")
    return Listed(parts, base, spans, stacks)


def _by_path(models: Sequence[Model]) -> dict[str, Settings]:
    parameters: dict[str, Settings] = {}
    for one in models:
        path = path_of(one.model)
        if path in parameters:
            raise SettingError(f"model '{path}' is listed twice")
        parameters[path] = one.parameters or {}
    return parameters


def path_of(model: Any) -> str:
    """A model's path; mergekit's other ways to name one are refused."""
    if isinstance(model, Mapping):
        extra = sorted(set(model) - {"model", "path"})
        if not extra and len(model) == 1:
            return path_of(next(iter(model.values())))
        raise SettingError(f"model {dict(model)}: weft knows only a path, not {', '.join(extra)}")
    if not isinstance(model, str) or not model:
        raise SettingError(f"model {model!r} is not a path")
    if "+" in model:
        raise SettingError(f"model '{model}': fold the adapter into a checkpoint first")
    return model
