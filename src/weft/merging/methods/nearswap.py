"""Nearswap: towards a part, but no weight farther than a distance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor

from weft.merging.engine.method import Block, Known
from weft.merging.mergekit.forms import MergekitForm, Options, check_one_other
from weft.merging.mergekit.parameters import ParameterReader
from weft.merging.methods.base import MergeMethod

_NEAR = 1e-6


class Nearswap(MergeMethod):
    """Move every weight of the base towards the part's by at most the part's weight t.

    θ = θ_base + clip(τ, −t, t): where the two are nearer than t, it is the part's weight (alchemonaut
    2024, QuartetAnemoi; mergekit's nearswap, which moves |τ| < 1e-6 by τ t / 1e-6 where t is less).
    """

    name: ClassVar[str] = "nearswap"
    source: ClassVar[str] = "huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001"
    needs_base: ClassVar[bool] = True
    relative: ClassVar[bool] = True
    takes: ClassVar[Literal["1"]] = "1"

    @classmethod
    def mergekit_forms(cls) -> Mapping[str, MergekitForm]:
        return {"nearswap": MergekitForm("origin", _from_mergekit, ("t",))}

    def default_weights(self, parts: int) -> list[float]:
        return [1e-4] * parts

    def combine(self, block: Block, known: Known) -> Tensor:
        return near(block.parts[0], block.weights[0])


def near(tau: Tensor, weight: float) -> Tensor:
    """clip(τ, ±w) [n] in place; of a negative weight, that of −τ."""
    if weight < 0:
        tau, weight = tau.neg_(), -weight
    if weight < _NEAR:
        return tau.mul_(weight / _NEAR).clamp_(-weight, weight)
    return tau.clamp_(-weight, weight)


def _from_mergekit(reader: ParameterReader) -> tuple[dict[str, Any], Options]:
    check_one_other(reader)
    return {"name": "nearswap"}, {"weight": [reader.weights("t", None)]}
