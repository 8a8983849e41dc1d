"""Sums over one tensor of K parts, from which norms, cosines and sign conflicts follow."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.adapters import Factors
from weft.errors import DataError
from weft.merging.engine.source import TensorSource
from weft.merging.engine.stream import BLOCK

_STACK = re.compile(r"\w*(?:layers?|blocks?|groups|h)")
_EMBEDDING = re.compile(r"\w*emb\w*|wte|wpe|\w*shared")


@dataclass(frozen=True)
class ModelPlace:
    """Where in a model a tensor or module is: "layer" 3 and, inside it, "attention.self.query"."""

    stack: str
    block: int | None
    kind: str


def place(name: str) -> ModelPlace:
    """Read off a dotted name; outside all blocks, `stack` is "embeddings" or "head and rest".

    >>> place("encoder.layer.3.attention.self.query.weight")
    ModelPlace(stack='encoder.layer', block=3, kind='attention.self.query')
    """
    words = name.removesuffix(".weight").removesuffix(".bias").split(".")
    for at in range(1, len(words)):
        if words[at].isdigit() and _STACK.fullmatch(words[at - 1]):
            return ModelPlace(".".join(words[:at]), int(words[at]), ".".join(words[at + 1 :]))
    embedding = any(_EMBEDDING.fullmatch(word) for word in words)
    return ModelPlace("embeddings" if embedding else "head and rest", None, "")


@dataclass(frozen=True, eq=False)
class Sums:
    """What K task vectors add up to over some elements; sums of disjoint elements add."""

    elements: int
    gram: Tensor  # [K, K] float64: inner products <τ_i, τ_j>
    both: Tensor  # [K, K] int64: elements where both are non-zero
    opposite: Tensor  # [K, K] int64: those of them where the signs are opposite
    several: int  # elements where two parts or more are non-zero
    mixed: int  # those of them where two have opposite signs

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.elements + other.elements,
            self.gram + other.gram,
            self.both + other.both,
            self.opposite + other.opposite,
            self.several + other.several,
            self.mixed + other.mixed,
        )


def total(parts: int, several: Iterable[Sums]) -> Sums:
    """The sum, in the order given."""
    counts = torch.zeros(parts, parts, dtype=torch.int64)
    return sum(
        several, Sums(0, torch.zeros(parts, parts, dtype=torch.float64), counts, counts, 0, 0)
    )


def look(task_vectors: Tensor, gram: Tensor | None = None) -> Sums:
    """The sums of one block [K, n] float64, n ≤ 2^24; a known `gram` is taken as it is."""
    signs = task_vectors.sign().float()  # products of signs are counts, exact in float32 up to 2^24
    there = signs.abs()
    both = there @ there.T
    opposite = (both - signs @ signs.T) / 2
    mixed = (signs.amax(0) > 0) & (signs.amin(0) < 0)
    return Sums(
        task_vectors.shape[1],
        task_vectors @ task_vectors.T if gram is None else gram,
        both.long(),
        opposite.long(),
        int((there.sum(0) >= 2).sum()),
        int(mixed.sum()),
    )


def measure_block(
    parts: Sequence[TensorSource], base: TensorSource, name: str, start: int, count: int
) -> Sums:
    """Elements [start, start + count) of one floating tensor of K checkpoints and their base.

    Differences are formed in float64, where they are exact for every smaller dtype. Raises
    `WeftError` where a part or the base holds NaN or infinity.
    """
    common = base.read(name, start, count).double()
    block = torch.stack([part.read(name, start, count).double() - common for part in parts])
    if not block.isfinite().all():
        bad = next(p for p in (base, *parts) if not _finite(p.read(name, start, count)))
        raise DataError(f"tensor '{name}' of {bad.label} holds NaN or infinity")
    return look(block)


def _finite(values: Tensor) -> bool:
    return bool(values.double().isfinite().all())


@dataclass(frozen=True, eq=False)
class Spaces:
    """How K adapters' factors of one module lie to each other.

    ΔW = s·BA writes into the column space of B ("output") and reads the row space of A ("input").
    Angles are the principal angles of two such spaces in degrees, smallest first; `overlap` is the
    mean of their squared cosines, from 0 (orthogonal) to 1 (the smaller lies in the larger), and
    `chance` what two random spaces of these ranks would have on average, max(r_i, r_j) / d.
    None where a part's factors are zero.
    """

    output_angles: list[list[list[float] | None]]  # K × K × min(r_i, r_j)
    input_angles: list[list[list[float] | None]]
    output_overlap: list[list[float | None]]
    input_overlap: list[list[float | None]]
    output_chance: list[list[float | None]]
    input_chance: list[list[float | None]]
    effective_ranks: list[float | None]  # K


def measure_factors(parts: Sequence[Factors | None], shape: tuple[int, int]) -> Sums:
    """One module of K adapters; None has ΔW = 0. `shape` is that of ΔW: [out, in].

    Inner products without ΔW: <s B A, s' B' A'> = s s' Σ (BᵀB' ∘ AA'ᵀ), in float64. Signs need
    the elements of ΔW: its rows are formed in float64, few at a time.
    """
    gram = torch.zeros(len(parts), len(parts), dtype=torch.float64)
    for i, one in enumerate(parts):
        for j, other in enumerate(parts[: i + 1]):
            if one is not None and other is not None:
                inner = (one.b.double().T @ other.b.double()) * (
                    one.a.double() @ other.a.double().T
                )
                gram[i, j] = gram[j, i] = one.scaling * other.scaling * inner.sum()
    rows, columns = shape
    step = max(1, BLOCK // max(1, columns))
    sums = []
    for start in range(0, rows, step):
        block = torch.zeros(len(parts), min(step, rows - start), columns, dtype=torch.float64)
        for k, part in enumerate(parts):
            if part is not None:
                b = part.scaling * part.b[start : start + step].double()
                torch.matmul(b, part.a.double(), out=block[k])
        sums.append(look(block.flatten(1), gram if start == 0 else torch.zeros_like(gram)))
    return total(len(parts), sums)


def measure_spaces(parts: Sequence[Factors | None]) -> Spaces:
    """The spaces of one module of K adapters; None has no space."""
    outputs = [_basis(None if part is None else part.b) for part in parts]
    inputs = [_basis(None if part is None else part.a.T) for part in parts]
    output, input_ = _pairs(outputs), _pairs(inputs)
    return Spaces(
        output_angles=[[_degrees(one) for one in row] for row in output],
        input_angles=[[_degrees(one) for one in row] for row in input_],
        output_overlap=[[_overlap(one) for one in row] for row in output],
        input_overlap=[[_overlap(one) for one in row] for row in input_],
        output_chance=_chances(outputs),
        input_chance=_chances(inputs),
        effective_ranks=[effective_rank(part) for part in parts],
    )


def effective_rank(factors: Factors | None) -> float | None:
    """exp(−Σ p ln p) with p = σ / Σσ over the singular values σ of ΔW (Roy & Vetterli 2007, Eq. 2).

    From 1 to r; None where ΔW = 0. The σ are those of R_B R_Aᵀ, of the QR of B and Aᵀ.
    """
    if factors is None:
        return None
    _, of_b = torch.linalg.qr(factors.b.double())
    _, of_a = torch.linalg.qr(factors.a.double().T)
    values = torch.linalg.svdvals(factors.scaling * of_b @ of_a.T)
    if not values.sum() > 0:
        return None
    share = values / values.sum()
    return math.exp(float(torch.special.entr(share).sum()))


def _basis(columns: Tensor | None) -> Tensor | None:
    """An orthonormal basis [d, rank] float64 of what the columns [d, r] span.

    Directions below the rounding of float32, in which factors are kept, are noise and don't count.
    """
    if columns is None:
        return None
    u, values, _ = torch.linalg.svd(columns.double(), full_matrices=False)
    spanned = values > values.max() * max(columns.shape) * torch.finfo(torch.float32).eps
    return u[:, spanned] if spanned.any() else None


def _pairs(bases: Sequence[Tensor | None]) -> list[list[Tensor | None]]:
    """Cosines of the principal angles, largest first: the singular values of Q_iᵀ Q_j."""
    return [
        [
            None if p is None or q is None else torch.linalg.svdvals(p.T @ q).clamp(max=1.0)
            for q in bases
        ]
        for p in bases
    ]


def _degrees(cosines: Tensor | None) -> list[float] | None:
    return None if cosines is None else cosines.acos().rad2deg().tolist()


def _overlap(cosines: Tensor | None) -> float | None:
    return None if cosines is None else float(cosines.square().mean())


def _chances(bases: Sequence[Tensor | None]) -> list[list[float | None]]:
    return [
        [
            None if p is None or q is None else max(p.shape[1], q.shape[1]) / p.shape[0]
            for q in bases
        ]
        for p in bases
    ]
