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
from weft.errors import WeftError
from weft.learning.groups import Groups
from weft.merging.engine.method import Method
from weft.merging.engine.source import Source
from weft.merging.engine.stream import Merge, measured, merge_in_memory

Place = Callable[[Tensor], None]
"""Puts θ(w) of coefficients w [K, G] into the model."""


def split(
    parts: Sequence[Source], method: Method, base: Source, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Tensor name -> v [K, n] in `dtype`, for every tensor that is merged.

    Raises `WeftError` for a method whose result is no weighted sum of what it keeps of each part.
    """
    if not getattr(method, "keeps_parts", False):
        raise WeftError(
            f"method '{method.name}' does not keep the parts apart, so no weights can be learned "
            "for it; task_arithmetic, ties (weigh: after), dare and magnitude_prune do"
        )
    count = len(parts)
    found: dict[str, Tensor] = {}
    for k in range(count):
        one_hot = [float(k == j) for j in range(count)]
        merged = merge_in_memory(Merge(parts, method, lambda name, w=one_hot: w, base))  # type: ignore[misc]
        for name, values in merged.items():
            spec = base.specs[name]
            if not measured(spec):
                continue
            origin = base.read(name, 0, spec.size).to(torch.float32)
            held = found.setdefault(name, torch.empty(count, spec.size, dtype=dtype))
            held[k] = values.reshape(-1).to(torch.float32) - origin
        del merged
    return found


@dataclass(frozen=True, eq=False)
class _Entry:
    """One parameter: where it is, what it is made of, and which coefficients it gets."""

    owners: tuple[tuple[nn.Module, str], ...]  # more than one where it is tied
    base: Tensor  # [n] float32
    vectors: Tensor  # [K, n]
    group: int
    shape: torch.Size
    dtype: torch.dtype


class _Merge(torch.autograd.Function):
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
    own = w[:, entry.group]
    if entry.vectors.dtype == torch.float32:
        merged = entry.base + own @ entry.vectors
    else:  # a coefficient is two numbers of the low precision: one would lose small steps
        high = own.to(entry.vectors.dtype)
        low = (own - high.to(own.dtype)).to(entry.vectors.dtype)
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
        self.placed: list[
            Tensor
        ] = []  # the last w [K, G]; in a list, so that it stays no parameter

    def forward(self, ids: Tensor) -> Tensor:
        rows = self.vectors[:, ids.reshape(-1)].to(torch.float32)  # [K, n, d]
        delta = torch.einsum("k,knd->nd", self.placed[0][:, self.group], rows)
        base = nn.functional.embedding(ids.reshape(-1), self.weight).to(torch.float32)
        return (base + delta).to(self.dtype).view(*ids.shape, -1)


@contextmanager
def weighted(
    model: nn.Module, vectors: Mapping[str, Tensor], groups: Groups, dtype: torch.dtype
) -> Iterator[Place]:
    """Inside, the model has the weights that were last placed, computed in `dtype`.

    `vectors` are `split`'s, by names of the base's files; parameters without one stay the base's.
    Afterwards the model is as it was.
    """
    named = dict(model.named_parameters())
    files = parameters_of(vectors, model)  # parameter -> name in the base's files
    frozen = {name: p.requires_grad for name, p in named.items()}
    training = model.training
    model.requires_grad_(False)
    model.eval()
    embedding = _lone_input_embedding(model, files)
    entries: list[_Entry] = []
    placed: list[tuple[nn.Module, str, nn.Parameter]] = []
    for name, file in files.items():
        parameter = named[name]
        if embedding is not None and parameter is embedding.weight:
            continue
        base = parameter.detach().reshape(-1).to(torch.float32)
        owners, vector, group = _owners(model, parameter), vectors[file], groups.of[file]
        entries.append(_Entry(owners, base, vector, group, parameter.shape, dtype))
    replaced: tuple[str, nn.Embedding, _WeightedEmbedding] | None = None
    constant = [
        (_owners(model, p), p.detach().to(dtype)) for name, p in named.items() if name not in files
    ]
    try:
        for owners, value in constant:
            for module, child in owners:
                held = module._parameters.pop(child)
                assert held is not None
                placed.append((module, child, held))
                setattr(module, child, value)
        for entry in entries:
            for module, child in entry.owners:
                held = module._parameters.pop(child)
                assert held is not None
                placed.append((module, child, held))
        if embedding is not None:
            name = next(n for n, module in model.named_modules() if module is embedding)
            file = files[f"{name}.weight"]
            made = _WeightedEmbedding(embedding, vectors[file], groups.of[file], dtype)
            replaced = (name, embedding, made)
            _put(model, name, made)

        def place(w: Tensor) -> None:
            if replaced is not None:
                replaced[2].placed[:] = [w]
            merged = cast(tuple[Tensor, ...], _Merge.apply(w, entries))  # type: ignore[no-untyped-call]
            for entry, value in zip(entries, merged, strict=True):
                for module, child in entry.owners:
                    setattr(module, child, value)

        yield place
    finally:
        for module, child, held in placed:
            module.__dict__.pop(child, None)
            module._parameters[child] = held
        if replaced is not None:
            _put(model, replaced[0], replaced[1])
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(frozen[name])
        model.train(training)


def _lone_input_embedding(model: nn.Module, files: Mapping[str, str]) -> nn.Embedding | None:
    """The word embedding where nothing else uses its weights: most of its rows are not needed."""
    get = getattr(model, "get_input_embeddings", None)
    found = None if get is None else get()
    if type(found) is not nn.Embedding:
        return None
    owners = [n for n, p in model.named_parameters(remove_duplicate=False) if p is found.weight]
    return found if len(owners) == 1 and owners[0] in files else None


def _owners(model: nn.Module, parameter: nn.Parameter) -> tuple[tuple[nn.Module, str], ...]:
    return tuple(
        (module, child)
        for module in model.modules()
        for child, own in module._parameters.items()
        if own is parameter
    )


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
