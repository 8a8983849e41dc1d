"""Weights θ(w) = θ_base + Σ_k w_k v_k inside a model, differentiable in w and in nothing else.

v_k is what a merging method keeps of part k's task vector: the method is run K times with one-hot
weights, so that what is learned is what the static engine computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from weft.backbones.files import parameters_of
from weft.errors import SettingError
from weft.learning.groups import Groups
from weft.learning.in_model import SetWeights, frozen_model, replaced_modules
from weft.merging.engine.method import Method
from weft.merging.engine.source import TensorSource
from weft.merging.engine.stream import Merge, measured, merge_in_memory


def task_vectors(
    parts: Sequence[TensorSource], method: Method, base: TensorSource, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Tensor name -> v [K, n] in `dtype`, for every tensor that is merged.

    Raises `SettingError` for a method whose result is no weighted sum of what it keeps of each
    part.
    """
    if not getattr(method, "keeps_parts", False):
        raise SettingError(
            f"method '{method.name}' does not keep the parts apart, so no weights can be learned "
            "for it; task_arithmetic, ties (weigh: after), dare and magnitude_prune do"
        )
    count = len(parts)
    vectors: dict[str, Tensor] = {}
    for k in range(count):
        one_hot = [float(k == j) for j in range(count)]
        merged = merge_in_memory(Merge(parts, method, lambda name, w=one_hot: w, base))  # type: ignore[misc]
        for name, values in merged.items():
            spec = base.specs[name]
            if not measured(spec):
                continue
            origin = base.read(name, 0, spec.size).to(torch.float32)
            rows = vectors.setdefault(name, torch.empty(count, spec.size, dtype=dtype))
            rows[k] = values.reshape(-1).to(torch.float32) - origin
        del merged
    return vectors


@dataclass(frozen=True, eq=False)
class _Entry:
    """One parameter: its places in the model, its terms, and the group of its coefficients."""

    places: tuple[tuple[nn.Module, str], ...]  # more than one where it is tied
    base: Tensor  # [n] float32
    vectors: Tensor  # [K, n]
    group: int
    shape: torch.Size
    dtype: torch.dtype


class _WeightedSum(torch.autograd.Function):
    """θ of all entries at once; the gradient of w_k is ⟨∂L/∂θ, v_k⟩, summed over a group."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, entries: Sequence[_Entry]) -> tuple[Tensor, ...]:
        ctx.entries, ctx.like = entries, w
        return tuple(_weighted(entry, w) for entry in entries)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, None]:
        total = torch.zeros_like(ctx.like)
        for entry, grad in zip(ctx.entries, grads, strict=True):
            if grad is not None:
                row = grad.reshape(1, -1).to(entry.vectors.dtype)
                total[:, entry.group] += (row @ entry.vectors.T)[0].to(total.dtype)
        return total, None


def _weighted(entry: _Entry, w: Tensor) -> Tensor:
    coefficients = w[:, entry.group]
    if entry.vectors.dtype == torch.float32:
        merged = entry.base + coefficients @ entry.vectors
    else:  # a coefficient is two numbers of the low precision: one would lose small steps
        high = coefficients.to(entry.vectors.dtype)
        low = (coefficients - high.to(coefficients.dtype)).to(entry.vectors.dtype)
        delta = torch.stack([high, low]) @ entry.vectors
        merged = (entry.base + delta[0]).add_(delta[1])
    return merged.to(entry.dtype).view(entry.shape)


class _WeightedEmbedding(nn.Module):
    """An embedding of θ(w) that forms only the rows asked for."""

    def __init__(self, whole: nn.Embedding, vectors: Tensor, group: int, dtype: torch.dtype):
        super().__init__()
        self.weight = whole.weight  # [rows, d]: the base's
        self.vectors = vectors.view(len(vectors), *whole.weight.shape)
        self.group, self.dtype = group, dtype
        self.last_w: list[Tensor] = []  # one, [K, G]; in a list, so that it stays no parameter

    def forward(self, ids: Tensor) -> Tensor:
        rows = self.vectors[:, ids.reshape(-1)].to(torch.float32)  # [K, n, d]
        delta = torch.einsum("k,knd->nd", self.last_w[0][:, self.group], rows)
        base = nn.functional.embedding(ids.reshape(-1), self.weight).to(torch.float32)
        return (base + delta).to(self.dtype).view(*ids.shape, -1)


@contextmanager
def weighted_model(
    model: nn.Module, vectors: Mapping[str, Tensor], groups: Groups, dtype: torch.dtype
) -> Iterator[SetWeights]:
    """Inside, the model has the weights that were last set, computed in `dtype`.

    `vectors` are those of `task_vectors`, by names of the base's files; parameters without one stay
    the base's. Afterwards the model is as it was.
    """
    named = dict(model.named_parameters())
    files = parameters_of(vectors, model)  # parameter -> name in the base's files
    lone = _lone_input_embedding(model, files)
    embeddings: dict[str, _WeightedEmbedding] = {}
    entries = [
        _Entry(
            _places(model, named[name]),
            named[name].detach().reshape(-1).to(torch.float32),
            vectors[file],
            groups.of[file],
            named[name].shape,
            dtype,
        )
        for name, file in files.items()
        if lone is None or name != f"{lone}.weight"
    ]
    constant = [
        (_places(model, p), p.detach().to(dtype)) for name, p in named.items() if name not in files
    ]
    if lone is not None:
        whole, file = cast(nn.Embedding, model.get_submodule(lone)), files[f"{lone}.weight"]
        embeddings[lone] = _WeightedEmbedding(whole, vectors[file], groups.of[file], dtype)

    def set_weights(w: Tensor) -> None:
        for embedding in embeddings.values():
            embedding.last_w[:] = [w]
        merged = cast(tuple[Tensor, ...], _WeightedSum.apply(w, entries))  # type: ignore[no-untyped-call]
        for entry, tensor in zip(entries, merged, strict=True):
            for module, child in entry.places:
                setattr(module, child, tensor)

    with frozen_model(model), _without_parameters() as take_out:
        for places, tensor in constant:
            for module, child in places:
                take_out(module, child)
                setattr(module, child, tensor)
        for entry in entries:
            for module, child in entry.places:
                take_out(module, child)
        with replaced_modules(model, embeddings):
            yield set_weights


@contextmanager
def _without_parameters() -> Iterator[Callable[[nn.Module, str], None]]:
    """Gives what takes a parameter out of its module, so that a tensor can stand in its place;
    afterwards every one is back."""
    taken: list[tuple[nn.Module, str, nn.Parameter]] = []

    def take_out(module: nn.Module, child: str) -> None:
        parameter = module._parameters.pop(child)
        assert parameter is not None
        taken.append((module, child, parameter))

    try:
        yield take_out
    finally:
        for module, child, parameter in taken:
            module.__dict__.pop(child, None)
            module._parameters[child] = parameter


def _lone_input_embedding(model: nn.Module, files: Mapping[str, str]) -> str | None:
    """The name of the word embedding where nothing else uses its weights: most of its rows are not
    needed."""
    get = getattr(model, "get_input_embeddings", None)
    embedding = None if get is None else get()
    if type(embedding) is not nn.Embedding:
        return None
    names = [n for n, p in model.named_parameters(remove_duplicate=False) if p is embedding.weight]
    return names[0].removesuffix(".weight") if len(names) == 1 and names[0] in files else None


def _places(model: nn.Module, parameter: nn.Parameter) -> tuple[tuple[nn.Module, str], ...]:
    return tuple(
        (module, child)
        for module in model.modules()
        for child, one in module._parameters.items()
        if one is parameter
    )
