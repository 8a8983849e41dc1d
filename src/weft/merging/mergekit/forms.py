"""How a file of mergekit is read as a method of weft, with mergekit's defaults.

Each method has its own forms (`MergeMethod.mergekit_forms`); here is what several of them share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from weft.errors import SettingError
from weft.merging.mergekit.parameters import ParameterReader, changed_weight

BaseUse = Literal["origin", "part", "ignored", "optional"]
Options = dict[str, list[Any]]  # of the parts: weight, density, …
Build = Callable[[ParameterReader], tuple[dict[str, Any], Options]]
SPARSE = ("weight", "density", "normalize", "rescale", "lambda")
"""The parameters of all methods that thin out task vectors."""


@dataclass(frozen=True)
class MergekitForm:
    """One of mergekit's methods: what its base is, its parameters, and the same in weft.

    The base is the origin of task vectors (or may be one: "optional"), a part that has a
    role of its own in the method, or "ignored": a model like any other. `build` gives the method's options
    and what single parts have.
    """

    base: BaseUse
    build: Build
    parameters: tuple[str, ...] = ()
    ranks: bool = False  # entries by size: which ones stay depends on the precision


def part_weights(reader: ParameterReader) -> Options:
    return {"weight": [reader.weights("weight", model) for model in reader.models]}


def plain_sum(reader: ParameterReader, *, normalize: bool = False) -> dict[str, Any]:
    """A weighted sum of task vectors."""
    settings: dict[str, Any] = {"name": "task_arithmetic", "scale": reader.option("lambda", 1.0)}
    if reader.option("normalize", normalize):
        settings["normalize"] = True
    return settings


def consensus(reader: ParameterReader, *, normalize: bool = False) -> dict[str, Any]:
    """Signs elected by weighted task vectors; a zero sum counts as positive."""
    low = {"votes": reader.dtype} if reader.dtype in ("float16", "bfloat16") else {}
    return low | {
        "name": "ties",
        "density": 1.0,
        "trim": "tensor",
        "elect": "weighted",
        "zeros": "positive",
        "normalize": reader.option("normalize", normalize),
        "scale": reader.option("lambda", 1.0),
    }


def option_of_parts(
    reader: ParameterReader,
    parameter: str,
    default: float,
    option: str,
    change: Callable[[float], float] = float,
) -> tuple[dict[str, float], Options]:
    """A parameter of the models as the method's option where it is one number for all, else as
    that of single parts."""
    values = [
        changed_weight(reader.weights(parameter, model, default), change, parameter)
        for model in reader.models
    ]
    if all(isinstance(one, int | float) and one == values[0] for one in values):
        return {option: values[0]}, {}
    return {}, {option: values}


def with_keep(settings: dict[str, float], of_parts: Options) -> dict[str, Any]:
    """Exactly k entries, unless all stay."""
    return settings | ({"keep": "exact"} if of_parts or settings["density"] < 1 else {})


def rest(density: float) -> float:
    """The share that is dropped, of the share that stays."""
    return round(1 - float(density), 12)


def rescaling(reader: ParameterReader) -> str:
    return "l1" if reader.option("rescale", True) else "none"


def merged_by(reader: ParameterReader, *, normalize: bool = False) -> dict[str, Any]:
    """What sparse task vectors are merged by."""
    elects = reader.method in ("dare_ties", "della", "breadcrumbs_ties")
    return (consensus if elects else plain_sum)(reader, normalize=normalize)


def check_one_other(reader: ParameterReader) -> None:
    """A `SettingError` unless there is one model beside the base."""
    if len(reader.models) != 1:
        raise SettingError(
            f"{reader.method} takes one model beside the base_model, not {len(reader.models)}"
        )
