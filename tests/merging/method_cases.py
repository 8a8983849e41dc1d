"""Small models to merge, and the plain sums that a merge is held against, in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from weft.merging.engine import stream as engine
from weft.merging.engine.source import Memory
from weft.merging.engine.stream import Merge, merge_in_memory
from weft.merging.methods import make_method

Array = NDArray[np.float64]
Model = dict[str, torch.Tensor]

SHAPES = {"wide": (3, 7), "bias": (5,), "tall": (9, 2)}


def models(k: int, seed: int = 0, shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> list[Model]:
    """k models of a few float32 tensors; the first is the base in most tests."""
    random = np.random.default_rng(seed)
    return [
        {
            n: torch.tensor(random.normal(size=shape), dtype=torch.float32)
            for n, shape in shapes.items()
        }
        for _ in range(k)
    ]


def merged(
    method: Any,
    parts: Sequence[Model],
    weights: Sequence[float] | None = None,
    base: Model | None = None,
    *,
    threads: int = 1,
    labels: Sequence[str] | None = None,
) -> Model:
    """The parts merged by weft."""
    made = make_method(method)
    names = labels or [f"part{i}" for i in range(len(parts))]
    given = made.default_weights(len(parts)) if weights is None else list(weights)
    sources = [Memory(name, part) for name, part in zip(names, parts, strict=True)]
    ground = None if base is None else Memory("base", base)
    return merge_in_memory(Merge(sources, made, lambda name: given, ground), threads=threads)


def taus(parts: Sequence[Model], base: Model | None) -> dict[str, Array]:
    """Task vectors by tensor: [K, n] float64, of differences rounded to float32."""
    return {
        name: np.stack(
            [
                (part[name] if base is None else part[name] - base[name])
                .reshape(-1)
                .double()
                .numpy()
                for part in parts
            ]
        )
        for name in parts[0]
    }


def on(base: Model | None, found: Mapping[str, Array], like: Model) -> dict[str, Array]:
    """Base plus merged task vectors."""
    return {
        name: values.reshape(like[name].shape)
        + (0 if base is None else base[name].double().numpy())
        for name, values in found.items()
    }


def flat(model: Mapping[str, Any]) -> Array:
    return np.concatenate([np.asarray(model[name], dtype=np.float64).ravel() for name in model])


def assert_close(found: Model, wanted: Mapping[str, Array], tolerance: float = 2e-6) -> None:
    assert list(found) == list(wanted)
    for name, tensor in found.items():
        np.testing.assert_allclose(
            tensor.double().numpy(), wanted[name], rtol=tolerance, atol=tolerance, err_msg=name
        )


def assert_same_bits(one: Model, other: Model) -> None:
    for name in one:
        assert torch.equal(one[name].view(torch.int32), other[name].view(torch.int32)), name


def each_apart(tau: Mapping[str, Array], function: Any) -> dict[str, Array]:
    """A function of [K, n] applied to every tensor by itself."""
    return {name: function(values) for name, values in tau.items()}


def as_one(tau: Mapping[str, Array], function: Any) -> dict[str, Array]:
    """A function of [K, n] applied to all tensors as one long vector."""
    found = function(np.concatenate(list(tau.values()), axis=1))
    ends = np.cumsum([values.shape[1] for values in tau.values()])[:-1]
    return dict(zip(tau, np.split(found, ends, axis=-1), strict=True))


def small_blocks(patch: Any, size: int = 4) -> None:
    """Have even tiny tensors cut into several blocks."""
    patch.setattr(engine, "BLOCK", size)
