"""What each of mergekit's merge methods is in weft's words, with mergekit's defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from weft.errors import WeftError
from weft.merging.mergekit.parameters import Reader, changed
from weft.merging.mergekit.slices import BaseUse

Options = dict[str, list[Any]]  # of the parts: weight, density, …
Build = Callable[[Reader], tuple[dict[str, Any], Options]]


@dataclass(frozen=True)
class Kind:
    """One of mergekit's methods: what its base is, its parameters, and how to say it in weft.

    The base is the origin of task vectors (or may be one: "optional"), a part that the method
    knows from the others, or "ignored": a model like any other.
    """

    base: BaseUse
    parameters: tuple[str, ...]
    build: Build
    ranks: bool = False  # entries by size: which are kept depends on the precision


def _weights(reader: Reader) -> Options:
    return {"weight": [reader.weights("weight", model) for model in reader.models]}


def _linear(reader: Reader) -> tuple[dict[str, Any], Options]:
    normalize = reader.option("normalize", True)
    return {"name": "linear", "normalize": normalize}, _weights(reader)


def _passthrough(reader: Reader) -> tuple[dict[str, Any], Options]:
    if len(reader.models) != 1:
        raise WeftError(f"passthrough takes one model, not {len(reader.models)}")
    scale = reader.weights("scale", reader.models[0], 1.0)
    return {"name": "linear", "normalize": False}, {"weight": [scale]}


def _slerp(reader: Reader) -> tuple[dict[str, Any], Options]:
    """From the base (t = 0) to the other model (t = 1)."""
    if reader.base is None or len(reader.models) != 2:
        raise WeftError("slerp goes from base_model to one other model")
    t = reader.weights("t", None)
    return {"name": "slerp"}, {"weight": [changed(t, lambda value: 1 - value, "t"), t]}


def _nuslerp(reader: Reader) -> tuple[dict[str, Any], Options]:
    if len(reader.models) != 2:
        raise WeftError(
            f"nuslerp goes from one model to another, and there are {len(reader.models)}"
        )
    along = "tensor"
    if not reader.option("nuslerp_flatten", True):
        along = "columns" if reader.option("nuslerp_row_wise", False) else "rows"
    return {"name": "nuslerp", "along": along}, _weights(reader)


def _multislerp(reader: Reader) -> tuple[dict[str, Any], Options]:
    if len(reader.models) == 1:  # mergekit takes it as it is, whatever its weight
        return {"name": "linear", "normalize": False}, {"weight": [1.0]}
    normalize = reader.option("normalize_weights", True)
    return {"name": "multislerp", "normalize": normalize}, _weights(reader)


def _karcher(reader: Reader) -> tuple[dict[str, Any], Options]:
    settings = {
        "name": "karcher",
        "iterations": reader.option("max_iter", 10),
        "tolerance": reader.option("tol", 1e-5),
    }
    return settings, {}


def _model_stock(reader: Reader) -> tuple[dict[str, Any], Options]:
    filter_wise = reader.option("filter_wise", False)
    return {"name": "model_stock", "filter_wise": filter_wise, "opposed": "formula"}, {}


def _sce(reader: Reader) -> tuple[dict[str, Any], Options]:
    share = reader.option("select_topk", 1.0)
    settings = {"name": "sce", "density": share, "among": "changed", "keep": "exact"}
    return settings | {"alike": 1e-6}, {}


def _one_other(reader: Reader) -> None:
    if len(reader.models) != 1:
        raise WeftError(
            f"{reader.method} takes one model beside the base_model, not {len(reader.models)}"
        )


def _nearswap(reader: Reader) -> tuple[dict[str, Any], Options]:
    _one_other(reader)
    return {"name": "nearswap"}, {"weight": [reader.weights("t", None)]}


def _arcee_fusion(reader: Reader) -> tuple[dict[str, Any], Options]:
    """Stored dtypes are known only later: without a `dtype`, as if they were float32."""
    _one_other(reader)
    return {"name": "arcee_fusion", "precision": reader.dtype or "float32"}, {}


def _ram(reader: Reader) -> tuple[dict[str, Any], Options]:
    settings = {"name": "ram", "epsilon": reader.option("epsilon", 1e-5)}
    if reader.method == "ramplus_tl":
        settings |= {"boost": reader.option("r", 0.1), "most": reader.option("alpha", 0.2)}
    return settings, {}


def _plain(reader: Reader, *, normalize: bool = False) -> dict[str, Any]:
    """A weighted sum of task vectors."""
    settings: dict[str, Any] = {"name": "task_arithmetic", "scale": reader.option("lambda", 1.0)}
    if reader.option("normalize", normalize):
        settings["normalize"] = True
    return settings


def _consensus(reader: Reader, *, normalize: bool = False) -> dict[str, Any]:
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


def _own(
    reader: Reader,
    parameter: str,
    default: float,
    option: str,
    change: Callable[[float], float] = float,
) -> tuple[dict[str, float], Options]:
    """A parameter of the models as the method's option where it is one number for all, else as
    that of single parts."""
    found = [
        changed(reader.weights(parameter, model, default), change, parameter)
        for model in reader.models
    ]
    if all(isinstance(one, int | float) and one == found[0] for one in found):
        return {option: found[0]}, {}
    return {}, {option: found}


def _task_arithmetic(reader: Reader) -> tuple[dict[str, Any], Options]:
    return _plain(reader), _weights(reader)


def _ties(reader: Reader) -> tuple[dict[str, Any], Options]:
    settings, own = _own(reader, "density", 1.0, "density")
    method = _consensus(reader, normalize=True) | _kept(settings, own)
    if reader.option("rescale", False):
        method["rescale"] = "l1"
    return method, _weights(reader) | own


def _kept(settings: dict[str, float], own: Options) -> dict[str, Any]:
    """Exactly k entries, unless all are kept."""
    return settings | ({"keep": "exact"} if own or settings["density"] < 1 else {})


def _dare(reader: Reader) -> tuple[dict[str, Any], Options]:
    settings, own = _own(reader, "density", 1.0, "drop_rate", _rest)
    then = _then(reader)
    if not own and settings["drop_rate"] <= 0:
        return then, _weights(reader)
    method = {"name": "dare", **settings, "rescale": _rescale(reader), "then": then}
    return method, _weights(reader) | own


def _della(reader: Reader) -> tuple[dict[str, Any], Options]:
    """mergekit's epsilon is half of how far the probabilities lie apart."""
    settings, own = _own(reader, "density", 1.0, "drop_rate", _rest)
    then = _then(reader, normalize=reader.method == "della")
    if not own and settings["drop_rate"] <= 0:
        return then, _weights(reader)
    window, apart = _own(reader, "epsilon", 0.15, "window", lambda value: 2 * value)
    method = {"name": "della", **settings, **window, "rescale": _rescale(reader), "then": then}
    return method, _weights(reader) | own | apart


def _breadcrumbs(reader: Reader) -> tuple[dict[str, Any], Options]:
    """Where density and gamma exceed 1, it is gamma that gives way."""
    settings, own = _own(reader, "density", 1.0, "density")
    then = _then(reader)
    if not own and settings["density"] >= 1:
        return then, _weights(reader)
    gamma, apart = _own(reader, "gamma", 0.01, "gamma")
    if settings and gamma:
        gamma = {"gamma": min(gamma["gamma"], _rest(settings["density"]))}
    method = {"name": "breadcrumbs", **_kept(settings, own), **gamma, "trim": "tensor"}
    if reader.option("rescale", False):
        method["rescale"] = "l1"
    return {**method, "then": then}, _weights(reader) | own | apart


def _rest(density: float) -> float:
    return round(1 - float(density), 12)


def _rescale(reader: Reader) -> str:
    return "l1" if reader.option("rescale", True) else "none"


def _then(reader: Reader, *, normalize: bool = False) -> dict[str, Any]:
    """What sparse task vectors are merged by."""
    elects = reader.method in ("dare_ties", "della", "breadcrumbs_ties")
    return (_consensus if elects else _plain)(reader, normalize=normalize)


def _kind(base: BaseUse, build: Build, *own: str, ranks: bool = False) -> Kind:
    return Kind(base, own, build, ranks)


def _sparse(build: Build, *own: str, ranks: bool = False) -> Kind:
    common = ("weight", "density", "normalize", "rescale", "lambda")
    return Kind("origin", (*common, *own), build, ranks)


KINDS: Mapping[str, Kind] = {
    "linear": _kind("ignored", _linear, "weight", "normalize"),
    "passthrough": _kind("ignored", _passthrough, "scale"),
    "slerp": _kind("part", _slerp, "t"),
    "nuslerp": _kind("optional", _nuslerp, "weight", "nuslerp_flatten", "nuslerp_row_wise"),
    "karcher": _kind("ignored", _karcher, "max_iter", "tol"),
    "multislerp": _kind("optional", _multislerp, "weight", "normalize_weights"),
    "model_stock": _kind("origin", _model_stock, "filter_wise"),
    "sce": _kind("origin", _sce, "select_topk", ranks=True),
    "nearswap": _kind("origin", _nearswap, "t"),
    "arcee_fusion": _kind("origin", _arcee_fusion, ranks=True),
    "ram": _kind("origin", _ram, "epsilon"),
    "ramplus_tl": _kind("origin", _ram, "epsilon", "r", "alpha"),
    "task_arithmetic": _kind("origin", _task_arithmetic, "weight", "normalize", "lambda"),
    "ties": _sparse(_ties, ranks=True),
    "dare_ties": _sparse(_dare),
    "dare_linear": _sparse(_dare),
    "della": _sparse(_della, "epsilon"),
    "della_linear": _sparse(_della, "epsilon"),
    "breadcrumbs": _sparse(_breadcrumbs, "gamma", ranks=True),
    "breadcrumbs_ties": _sparse(_breadcrumbs, "gamma", ranks=True),
}

# Of mergekit's repository, in no release of it.
_NOT_HERE: Sequence[str] = ("core_space", "cabs", "lrp", "zipit")
UNKNOWN: Mapping[str, str] = dict.fromkeys(_NOT_HERE, "is one of mergekit's that weft has not")
