"""What a merge of adapters wrote, and how much of ΔW its rank could keep."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from weft.adapters.factors import Factors
from weft.merging.lora.lowrank import Truncated


def written(merged: Mapping[str, Truncated]) -> dict[str, int]:
    """The largest rank, and the number of modules."""
    ranks = [one.factors.rank for one in merged.values()]
    return {"rank": max(ranks, default=0), "modules": len(ranks)}


def norm_shares(merged: Mapping[str, Truncated]) -> dict[str, Any]:
    """Of the Frobenius norms: what was cut off (`lost`) and what is left (`kept`) as shares of
    ‖ΔW‖, over all modules together and in the worst one, with its name. lost² + kept² = 1."""
    norms = {name: norm_of(one.factors) for name, one in merged.items()}
    whole = {name: _whole(norms[name], one.error) for name, one in merged.items()}
    total = math.fsum(value**2 for value in whole.values())
    cut = math.fsum((whole[name] * one.error) ** 2 for name, one in merged.items())
    lost = math.sqrt(cut / total) if total else 0.0
    worst = max(merged, key=lambda name: merged[name].error, default=None)
    most = 0.0 if worst is None else merged[worst].error
    return {
        "lost": float(f"{lost:.3g}"),
        "kept": float(f"{math.sqrt(max(0.0, 1 - lost**2)):.3g}"),
        "worst": {
            "module": worst,
            "lost": float(f"{most:.3g}"),
            "kept": float(f"{math.sqrt(max(0.0, 1 - most**2)):.3g}"),
        },
    }


def _whole(left: float, error: float) -> float:
    """‖ΔW‖ from what is left of it: what was cut off is orthogonal to that."""
    return left / math.sqrt(1 - error**2) if error < 1 else 0.0


def norm_of(factors: Factors) -> float:
    """‖s B A‖ (Frobenius), without forming it."""
    a, b = factors.a.double(), factors.b.double()
    square = torch.sum((b.T @ b) * (a @ a.T)).clamp(min=0)
    return abs(factors.scaling) * math.sqrt(float(square))
