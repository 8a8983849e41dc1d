"""Sums of low-rank products, exactly or truncated, without ever forming ΔW.

Parts have factors A_k [r_k, in], B_k [out, r_k] and a scaling s_k. Stacked, A = [A_1; …; A_K] and
B = [λ_1 s_1 B_1, …, λ_K s_K B_K], so that Σ λ_k ΔW_k = B A, with n = Σ r_k ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.adapters.factors import Factors
from weft.merging.engine.matrices import gram_of_rows, square_root

_SPARE = 8  # columns beyond the rank that make a span converge fast
_TINY, _HUGE = 1e-15, 1e15  # products of squares in between are safe in float32
_SMALL = 1e-3  # a share of ‖ΔW‖² so small is not the difference of two squares in float32


def concatenate(parts: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """Σ λ_k s_k B_k A_k, exactly, as factors of rank Σ r_k.

    Parts of weight 0 take no rank. Where all λ_k s_k are equal, that is the scaling, and no factor
    is rounded: a single part of weight 1 comes back bit for bit. Else the scaling is 1 and B_k is
    multiplied by λ_k s_k. This is what WeaveRec's released code computes, and PEFT's `cat`.

    >>> one = Factors(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0], [0.0]]), 1.0)
    >>> other = Factors(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0], [3.0]]), 2.0)
    >>> merged = concatenate([one, other], [1.0, 0.5])
    >>> merged.rank, merged.delta()
    (2, tensor([[2., 0.],
            [0., 3.]]))
    """
    alive = [(w * p.scaling, p) for p, w in zip(parts, weights, strict=True) if w * p.scaling]
    if not alive:
        return Factors(parts[0].a, torch.zeros_like(parts[0].b), 1.0)
    scales = [scale for scale, _ in alive]
    a = torch.cat([part.a for _, part in alive])
    if len(set(scales)) == 1:
        return Factors(a, torch.cat([part.b for _, part in alive], dim=1), scales[0])
    return Factors(a, torch.cat([scale * part.b for scale, part in alive], dim=1), 1.0)


def average_factors(parts: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """A = Σ λ_k A_k and B = Σ λ_k B_k, each on its own (WeaveRec Eqs. 6, 7 and 11, literally).

    The product of two sums has cross terms: this is another method than `concatenate`, equal to
    it where all A are equal and Σλ = 1. Parts need one rank and one scaling.
    """
    a = torch.stack([w * p.a for p, w in zip(parts, weights, strict=True)]).sum(0)
    b = torch.stack([w * p.b for p, w in zip(parts, weights, strict=True)]).sum(0)
    return Factors(a, b, parts[0].scaling)


@dataclass(frozen=True, eq=False)
class StackedFactors:
    """scale · B A with a [n, in] and b [out, n] float32."""

    a: Tensor
    b: Tensor
    scale: float = 1.0

    @classmethod
    def of(cls, parts: Sequence[Factors], weights: Sequence[float]) -> StackedFactors:
        """The parts' factors with λ_k s_k in B, but for the largest of these, which is `scale`."""
        rank = sum(part.rank for part in parts)
        scales = [weight * part.scaling for part, weight in zip(parts, weights, strict=True)]
        most = max(map(abs, scales)) or 1.0
        a = torch.empty(rank, parts[0].a.shape[1])
        b = torch.empty(parts[0].b.shape[0], rank)
        start = 0
        for part, scale in zip(parts, scales, strict=True):
            stop = start + part.rank
            a[start:stop] = part.a
            torch.mul(part.b, scale / most, out=b[:, start:stop])
            start = stop
        return cls(a, b, most)

    @property
    def rank(self) -> int:
        return self.a.shape[0]


@dataclass(frozen=True, eq=False)
class Truncated:
    """Factors of a lower rank and ‖ΔW - B A‖ / ‖ΔW‖ (Frobenius; 0 where ΔW is 0)."""

    factors: Factors
    error: float


def truncate(stack: StackedFactors, rank: int) -> Truncated:
    """The best approximation of B A of a rank (Eckart and Young), A [r, in], B [out, r], scaling 1.

    r = min(rank, n, in, out). With G_A = A Aᵀ, G_B = Bᵀ B = L Lᵀ and Y the first eigenvectors of
    Lᵀ G_A L, the columns of AᵀLY span the first right singular vectors of B A. These products of
    squares lose the small singular values in float32: so the span, a few columns wider than asked
    for, goes once more through B A and (B A)ᵀ, orthonormal in between, and the singular values are
    those of B A on it. They are shared out evenly: row i of A and column i of B both have the norm
    √σ_i. Where n exceeds a side of ΔW, ΔW itself is the smaller matrix. Accurate to about 1e-7 of
    the size of the parts.
    """
    if min(stack.b.shape[0], stack.a.shape[1]) <= stack.rank:
        delta = stack.b @ stack.a
        if not torch.isfinite(delta).all():
            stack = _rescaled(stack)
            delta = stack.b @ stack.a
        return truncate_delta(delta, rank, stack.scale)
    products = gram_of_rows(stack.a), gram_of_rows(stack.b.T)
    if not all(_safe(product) for product in products):
        stack = _rescaled(stack)
        products = gram_of_rows(stack.a), gram_of_rows(stack.b.T)
    turn = _balance(*products)
    product_a, product_b = products[0] * turn * turn[:, None], products[1] / turn / turn[:, None]
    root = square_root(product_b)
    vectors = _first(root.T @ product_a @ root, rank + _SPARE)
    triple = _refined(
        lambda right: stack.b @ (stack.a @ right),
        lambda left: stack.a.T @ (stack.b.T @ left),
        stack.a.T @ (root @ vectors * turn[:, None]),
        rank,
    )
    total = _dot(product_a, product_b)
    lost = 1 - triple.square / total if total else 0.0
    if total > 0 and lost < _SMALL:  # a difference of near equals: look at what is left instead
        lost = _rest(stack, turn, triple.right) / total
    return Truncated(triple.factors(stack.scale), max(lost, 0.0) ** 0.5)


def truncate_delta(delta: Tensor, rank: int, scale: float = 1.0) -> Truncated:
    """The best approximation of scale · ΔW [out, in] float32 of a rank, as `truncate` gives it."""
    if delta.shape[1] < delta.shape[0]:
        turned = truncate_delta(delta.T, rank, scale)
        a, b = turned.factors.b.T, turned.factors.a.T
        return Truncated(Factors(a.contiguous(), b.contiguous(), 1.0), turned.error)
    most = float(delta.abs().max()) if delta.numel() else 0.0
    if most:
        delta, scale = delta / most, scale * most
    vectors = _first(gram_of_rows(delta), rank + _SPARE)
    triple = _refined(
        lambda right: delta @ right, lambda left: delta.T @ left, delta.T @ vectors, rank
    )
    right = triple.right.float()
    rest = float((delta - delta @ right @ right.T).norm()) if most else 0.0
    return Truncated(triple.factors(scale), rest / float(delta.norm()) if most else 0.0)


def whole(delta: Tensor) -> Factors:
    """ΔW [out, in] itself, beside an identity on its smaller side: rank min(out, in)."""
    out, inside = delta.shape
    if out <= inside:
        return Factors(delta, torch.eye(out), 1.0)
    return Factors(torch.eye(inside), delta, 1.0)


def _balance(product_a: Tensor, product_b: Tensor) -> Tensor:
    """[n]: what to multiply row i of A with, and divide column i of B by, so that their norms are
    equal. Rounding then sees the size of products, not how it is split between their factors.
    1 where either is 0."""
    a, b = product_a.diagonal().double(), product_b.diagonal().double()
    return torch.where((a > 0) & (b > 0), (b / a) ** 0.25, 1.0).float()


def _rest(stack: StackedFactors, turn: Tensor, right: Tensor) -> float:
    """‖B A (1 - V Vᵀ)‖² in float64: its terms cancel each other."""
    rest = stack.a.double()
    rest = (rest - rest @ right @ right.T) * turn[:, None]
    return _dot(gram_of_rows(rest), gram_of_rows((stack.b.double() / turn).T))


def _safe(product: Tensor) -> bool:
    """Whether the squares of all rows, and products of these, lie well within float32."""
    squares = product.diagonal()
    return bool(((squares > _TINY) & (squares < _HUGE)).all())


def _rescaled(stack: StackedFactors) -> StackedFactors:
    """The same product with rows of A and columns of B of entries of at most 1, and of the same
    size as the one that they meet."""
    a, b = stack.a.abs().amax(1).double(), stack.b.abs().amax(0).double()
    size = (a * b).sqrt()
    most = float(size.max()) or 1.0
    turned = [torch.where(size > 0, size / most / side, 0.0) for side in (a, b)]
    return StackedFactors(
        (stack.a * turned[0][:, None]).float(),
        (stack.b * turned[1]).float(),
        stack.scale * most * most,
    )


def _first(product: Tensor, count: int) -> Tensor:
    """Eigenvectors [n, r] of the largest eigenvalues of G [n, n]."""
    vectors: Tensor = torch.linalg.eigh(product)[1]
    return vectors.flip(1)[:, :count]


def _dot(one: Tensor, other: Tensor) -> float:
    return float((one * other).sum(dtype=torch.float64))


@dataclass(frozen=True, eq=False)
class _Triple:
    """The first singular values [r] and vectors [out, r], [in, r], float64."""

    left: Tensor
    values: Tensor
    right: Tensor

    @property
    def square(self) -> float:
        return float((self.values**2).sum())

    def factors(self, scale: float) -> Factors:
        root = (self.values * abs(scale)).sqrt()
        sign = 1.0 if scale > 0 else -1.0
        a = (self.right * root).T.contiguous()
        return Factors(a.float(), (self.left * (root * sign)).float(), 1.0)


def _refined(
    times: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor], start: Tensor, rank: int
) -> _Triple:
    """The first singular triples of a matrix [out, in], from columns [in, r + a few] near them."""
    right = _orthonormal(start)
    right = _orthonormal(back(_orthonormal(times(right))))
    left, values, turn = torch.linalg.svd(times(right).double(), full_matrices=False)
    return _Triple(left[:, :rank], values[:rank], right.double() @ turn[:rank].T)


def _orthonormal(columns: Tensor) -> Tensor:
    basis: Tensor = torch.linalg.qr(columns.double())[0]
    return basis.float()
