"""Linears that carry several frozen adapters at once.

`StackedLinear` runs n streams, one for each adapter, as one batch: one product with the shared
weight, and one batched low-rank product. `MixedLinear` runs one stream in which the adapters' deltas
are summed with weights for each token. Inputs and outputs have the shapes of the linear that they
replace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from weft.adapters import Adapter, Factors
from weft.errors import MismatchError

Replace = Callable[[nn.Linear, Sequence["Factors | None"], str], nn.Module]
"""(linear, the factors of each adapter or None, the linear's name) -> the module that replaces it."""


def put_on(model: nn.Module, adapters: Sequence[Adapter], replace: Replace) -> dict[str, nn.Module]:
    """Replace every linear that one of the adapters changes, in place; returns the new modules by name.

    Raises a `MismatchError`, and changes nothing, where an adapter has a module that the model lacks
    or that has another shape there, and where an adapter trained a bias or rows of embeddings.
    """
    others = [name for one in adapters for name in (*one.tokens, *one.biases)]
    if others:
        raise MismatchError(
            f"an adapter trained '{others[0]}' (bias, trainable_token_indices), which can't be "
            "integrated"
        )
    names = [name for name, _ in model.named_modules() if any(name in a.factors for a in adapters)]
    unknown = [n for a in adapters for n in a.factors if n not in names]
    if unknown:
        raise MismatchError(f"an adapter has a module '{unknown[0]}' that the backbone lacks")
    changed: dict[str, tuple[nn.Linear, list[Factors | None]]] = {}
    for name in names:
        linear = model.get_submodule(name)
        if not isinstance(linear, nn.Linear):
            raise MismatchError(
                f"the adapters' module '{name}' is not a linear one in the backbone"
            )
        factors = [adapter.factors.get(name) for adapter in adapters]
        for one in factors:
            if one is not None and one.shape.delta != tuple(linear.weight.shape):
                raise MismatchError(
                    f"an adapter's module '{name}' has the shape {list(one.shape.delta)}, "
                    f"the backbone's {list(linear.weight.shape)}"
                )
        changed[name] = (linear, factors)
    replacements: dict[str, nn.Module] = {}
    for name, (linear, factors) in changed.items():
        parent, _, child = name.rpartition(".")
        replacements[name] = replace(linear, factors, name)
        setattr(model.get_submodule(parent), child, replacements[name])
    return replacements


def _stacked(linear: nn.Linear, factors: Sequence[Factors | None]) -> tuple[Tensor, Tensor]:
    """A [n, R, in] and scaling · B [n, out, R] in the linear's dtype; R is the largest rank, and the
    smaller ones are padded with zeros."""
    rank = max(one.rank for one in factors if one is not None)
    a = torch.zeros(len(factors), rank, linear.in_features)
    b = torch.zeros(len(factors), linear.out_features, rank)
    for row, one in enumerate(factors):
        if one is not None:
            a[row, : one.rank] = one.a
            b[row, :, : one.rank] = one.scaling * one.b
    return a.to(linear.weight), b.to(linear.weight)


class _Frozen(nn.Module):
    """The frozen weight, and buffers that are no part of a state dict."""

    streams = 1

    def __init__(self, linear: nn.Linear, factors: Sequence[Factors | None]) -> None:
        super().__init__()
        self.name = ""
        # One number that all linears of a model share: how many texts this pass reads.
        self.batch: list[int] | None = None
        # The stream that the input belongs to, while it is no text's (relative positions).
        self.shared: int | None = None
        self.weight, self.bias = linear.weight, linear.bias
        a, b = _stacked(linear, factors)
        self.register_buffer("a", a, persistent=False)
        self.register_buffer("b", b, persistent=False)
        self.a: Tensor
        self.b: Tensor

    def _check(self, x: Tensor) -> None:
        """A `MismatchError` if the input is not the batch's texts: some architectures feed a linear
        something else."""
        if self.batch is not None and x.shape[0] != self.batch[0]:
            raise MismatchError(
                f"'{self.name}' is given {list(x.shape)} where a batch of {self.batch[0]} texts is "
                "read: adapters of this architecture can't be integrated"
            )


class StackedLinear(_Frozen):
    """y_m = W x_m + bias + scaling_m B_m A_m x_m for the streams x = [x_1; …; x_n]."""

    def __init__(self, linear: nn.Linear, factors: Sequence[Factors | None]) -> None:
        super().__init__(linear, factors)
        self.streams = len(factors)

    def forward(self, x: Tensor) -> Tensor:
        """[n · batch, …, out] of [n · batch, …, in], streams one after the other."""
        if self.shared is not None:
            out = nn.functional.linear(x, self.weight, self.bias)
            return out + x @ self.a[self.shared].T @ self.b[self.shared].T
        self._check(x)
        rows = x.reshape(len(self.a), -1, x.shape[-1])
        out = nn.functional.linear(rows, self.weight, self.bias)
        out = torch.baddbmm(out, rows @ self.a.mT, self.b.mT)
        return out.view(*x.shape[:-1], -1)


class Scales:
    """Each block's weights of the adapters, [batch, tokens, n] or None where all are off."""

    def __init__(self) -> None:
        self.of: Mapping[int, Tensor] = {}


class MixedLinear(_Frozen):
    """y = W x + bias + Σ_m s_m scaling_m B_m A_m x with weights s [batch, tokens, n]."""

    def __init__(
        self, linear: nn.Linear, factors: Sequence[Factors | None], block: int, scales: Scales
    ) -> None:
        super().__init__(linear, factors)
        n, rank, inside = self.a.shape
        self.a = self.a.reshape(n * rank, inside)
        self.b = self.b.permute(1, 0, 2).reshape(len(self.weight), n * rank).contiguous()
        self.rank, self.block, self.scales = rank, block, scales

    def forward(self, x: Tensor) -> Tensor:
        """[batch, tokens, out] of [batch, tokens, in]."""
        out = nn.functional.linear(x, self.weight, self.bias)
        scales = self.scales.of.get(self.block)
        if scales is None:
            return out
        if self.shared is not None:
            return out + x @ self.a.T @ self.b.T / (len(self.a) // self.rank)
        self._check(x)
        narrow = (x @ self.a.T).view(*x.shape[:-1], -1, self.rank)
        # A block may compute its first token alone: [batch, 1, in] then.
        weighted = (narrow * scales[:, : x.shape[1], :, None].to(x.dtype)).flatten(-2)
        mixed: Tensor = out + weighted @ self.b.T
        return mixed


def block_of(name: str, blocks: str) -> int:
    """The number of the block that a module is in; -1 outside the list named `blocks`."""
    if not name.startswith(blocks + "."):
        return -1
    return int(name[len(blocks) + 1 :].partition(".")[0])
