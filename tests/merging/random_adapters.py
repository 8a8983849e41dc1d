"""Small random adapters, and float64 references of what merges of them must give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from weft.adapters import Adapter, Factors

OUT, IN, MODULES = 4, 5, ("query", "dense")


def adapter(
    seed: int,
    rank: int = 2,
    scaling: float = 2.0,
    *,
    shapes: Mapping[str, tuple[int, int]] | None = None,
    modules: Sequence[str] = MODULES,
    saved: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
    **backbone: Any,
) -> Adapter:
    """Normal factors; `shapes` maps modules to [out, in]; values are those that `dtype` holds."""
    random = torch.Generator().manual_seed(seed)
    shapes = shapes or dict.fromkeys(modules, (OUT, IN))
    factors = {
        name: Factors(
            torch.randn(rank, inside, generator=random).to(dtype).float(),
            torch.randn(out, rank, generator=random).to(dtype).float(),
            scaling,
        )
        for name, (out, inside) in shapes.items()
    }
    said = {"name": "tiny", "fingerprint": "f" * 64} | backbone
    return Adapter(factors, {"backbone": said, "domains": [f"d{seed}"]}, saved or {})


def delta(part: Adapter, module: str) -> Tensor:
    """s B A [out, in] float64; 0 is for the caller where there is no such module."""
    factors = part.factors[module]
    return factors.scaling * factors.b.double() @ factors.a.double()


def summed(parts: Sequence[Adapter], weights: Sequence[float], module: str) -> Tensor:
    """Σ λ_k ΔW_k [out, in] float64 over the parts that have the module."""
    having = [(p, w) for p, w in zip(parts, weights, strict=True) if module in p.factors]
    return torch.stack([w * delta(p, module) for p, w in having]).sum(0)


def best(matrix: Tensor, rank: int) -> tuple[Tensor, float]:
    """Eckart and Young: the nearest matrix of a rank, and ‖what is lost‖ / ‖matrix‖."""
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    near = left[:, :rank] * values[:rank] @ right[:rank]
    whole = float(values.norm())
    return near, float(values[rank:].norm()) / whole if whole else 0.0
