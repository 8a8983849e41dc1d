"""Weighted sums of adapters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from weft.adapters import Factors

Space = Literal["delta", "factors"]


def linear_delta(parts: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """ΔW = Σ λ_i s_i B_i A_i, exactly, as factors of rank Σ r_i.

    A = [A_1; …; A_K], B = [λ_1 s_1 B_1, …, λ_K s_K B_K], scaling 1. This is what WeaveRec's
    released code computes (papers' table, A1).
    """
    a = torch.cat([part.a for part in parts])
    b = torch.cat([w * p.scaling * p.b for p, w in zip(parts, weights, strict=True)], dim=1)
    return Factors(a, b, 1.0)


def linear_factors(parts: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """A = Σ λ_i A_i and B = Σ λ_i B_i, each on its own (WeaveRec Eqs. 6, 7 and 11, literally).

    The product of two sums has cross terms: this is another method than `linear_delta`, equal to
    it where all A are equal and Σλ = 1. Parts need one rank and one scaling.
    """
    a = torch.stack([w * p.a for p, w in zip(parts, weights, strict=True)]).sum(0)
    b = torch.stack([w * p.b for p, w in zip(parts, weights, strict=True)]).sum(0)
    return Factors(a, b, parts[0].scaling)
