"""Methods that keep some entries of each part by their magnitude, and sum or average them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from weft.merging.engine.method import Block, Known, Pass, part_option
from weft.merging.engine.order import Bound, Take, bound_of, bounds, drop_equals
from weft.merging.mergekit.forms import (
    SPARSE,
    MergekitForm,
    Options,
    merged_by,
    option_of_parts,
    part_weights,
    rest,
    with_keep,
)
from weft.merging.mergekit.parameters import ParameterReader
from weft.merging.methods.base import Inner, MergeMethod, Wrapper
from weft.merging.methods.linear import TaskArithmetic
from weft.merging.methods.sums import divide, equal, live, shrink, weighted_sum
from weft.merging.methods.trim import (
    Keep,
    Rescale,
    Trim,
    cuts,
    density_field,
    keep_field,
    norms,
    parts_of,
    rescale_field,
    rescaled,
    trim_field,
    trimmed,
)


class MagnitudePrune(MergeMethod):
    """Keep the largest entries of each task vector, then sum by weight.

    τ = Σ w_k τ'_k, τ'_k the entries of τ_k whose magnitude is among the density's largest: TIES
    (arXiv 2306.01708) without electing signs; PEFT has it by this name.
    """

    name: ClassVar[str] = "magnitude_prune"
    source: ClassVar[str] = "trimming alone of Yadav et al. 2023, arXiv 2306.01708"
    needs_base: ClassVar[bool] = True
    relative: ClassVar[bool] = True

    options_by_part: ClassVar[tuple[str, ...]] = ("density",)

    density: float = density_field(0.2)
    keep: Keep = keep_field()
    trim: Trim = trim_field("tensor")

    @property
    def keeps_parts(self) -> bool:
        return True

    def default_weights(self, parts: int) -> list[float]:
        return [1 / parts] * parts

    def passes(self) -> Sequence[Pass]:
        return cuts(_PRUNE, self.density, self.trim, self.keep)

    def combine(self, block: Block, known: Known) -> Tensor:
        every = range(len(block.parts))
        pruned = trimmed(block.parts, block, known, _PRUNE, every, self.trim, self.density)
        return weighted_sum(pruned, block.weights)


class LocalizeAndStitch(MergeMethod):
    """Keep the largest entries of each task vector, average where several parts keep one.

    τ = Σ w_k m_k τ_k / Σ w_k m_k, m_k = 1 for the density's largest of |τ_k|
    (He et al. 2024, arXiv 2408.13656, the variant without data).
    """

    name: ClassVar[str] = "localize_and_stitch"
    source: ClassVar[str] = "He et al. 2024, arXiv 2408.13656"
    needs_base: ClassVar[bool] = True
    relative: ClassVar[bool] = True

    options_by_part: ClassVar[tuple[str, ...]] = ("density",)

    density: float = density_field(0.05)
    keep: Keep = keep_field()
    trim: Trim = trim_field("global")

    def passes(self) -> Sequence[Pass]:
        return cuts(_LOCALIZE, self.density, self.trim, self.keep)

    def combine(self, block: Block, known: Known) -> Tensor:
        parts, weights, places = live(block)
        pruned = trimmed(parts, block, known, _LOCALIZE, places, self.trim, self.density)
        return stitch(pruned, weights, block.parts[0])


def stitch(parts: Sequence[Tensor], weights: Sequence[float], like: Tensor) -> Tensor:
    """Σ w_k τ_k / Σ w_k over the parts with τ_k ≠ 0: [n] float32."""
    total, mass = torch.zeros_like(like), torch.zeros_like(like)
    if not parts:
        return total
    if equal(weights):
        weights = [1.0] * len(parts)
    for part, weight in zip(parts, weights, strict=True):
        total.add_(part, alpha=weight)
        mass.add_(part.sign_().abs_(), alpha=weight)
    return divide(total, mass, weights)


class Breadcrumbs(Wrapper):
    """Drop the smallest and the very largest entries of each task vector, then merge.

    Of the n entries of a tensor in order of magnitude, int(gamma · n) at the upper end are
    dropped (fewer, if density leaves less room), int(density · n) below these kept, the rest
    dropped (Davari and Belilovsky 2023, arXiv 2312.06795).
    """

    name: ClassVar[str] = "breadcrumbs"
    source: ClassVar[str] = "Davari and Belilovsky 2023, arXiv 2312.06795"

    options_by_part: ClassVar[tuple[str, ...]] = ("density", "gamma")

    density: float = Field(
        default=0.9, gt=0, le=1, description="fraction of each part's entries to keep"
    )
    gamma: float = Field(default=0.01, ge=0, lt=1, description="fraction to drop at the upper end")
    keep: Keep = Field(
        default="ties",
        description="ties: all entries that tie with an end of what is kept stay; exact: "
        "int(density · n) entries stay, equal ones in the order of their positions",
    )
    trim: Trim = trim_field("tensor")
    rescale: Rescale = rescale_field()
    then: Inner = Field(default=TaskArithmetic(), description="the method that merges what is left")

    @classmethod
    def mergekit_forms(cls) -> Mapping[str, MergekitForm]:
        return {
            "breadcrumbs": MergekitForm("origin", _breadcrumbs, (*SPARSE, "gamma"), ranks=True),
            "breadcrumbs_ties": MergekitForm(
                "origin", _breadcrumbs, (*SPARSE, "gamma"), ranks=True
            ),
        }

    def measures(self) -> Sequence[Pass]:
        def at(n: int, known: Known, k: int) -> list[int]:
            keep = max(1, int(part_option(known, "density", k, self.density) * n))
            above = min(int(part_option(known, "gamma", k, self.gamma) * n), n - keep)
            return [n - above - keep, n - above - 1]

        passes = bounds(_CRUMBS, parts_of, at, _TAKES, scope=self.trim)
        passes = passes if self.keep == "exact" else passes[:2]  # positions are for breaking ties
        return [*passes, norms(_NORMS, self._cut)] if self.rescale == "l1" else passes

    def thin(self, block: Block, known: Known) -> Sequence[Tensor]:
        return rescaled(self._cut(block, known), known, _NORMS, range(len(block.parts)))

    def _cut(self, block: Block, known: Known) -> Sequence[Tensor]:
        first = block.place if self.trim == "global" else block.start
        parts = []
        for k, part in enumerate(block.parts):
            low, high = bound_of(known, _CRUMBS, k, _TAKES) or (Bound(0.0), Bound(math.inf))
            if part_option(known, "density", k, self.density) <= 0:
                parts.append(torch.zeros_like(part))
                continue
            if self.keep == "exact":
                # The upper end first: what it drops must not be looked at again.
                part = drop_equals(drop_equals(part, high, first), low, first)
            large = shrink(part, low.value)
            parts.append(large.sub_(torch.nn.functional.hardshrink(part, high.value)))
        return parts


_PRUNE, _LOCALIZE, _CRUMBS, _NORMS = "prune.cut", "localize.cut", "crumbs", "crumbs.norms"
_TAKES: tuple[Take, ...] = ("last", "first_up_to")


def _breadcrumbs(reader: ParameterReader) -> tuple[dict[str, Any], Options]:
    """Where density and gamma exceed 1, it is gamma that gives way."""
    settings, of_parts = option_of_parts(reader, "density", 1.0, "density")
    then = merged_by(reader)
    if not of_parts and settings["density"] >= 1:
        return then, part_weights(reader)
    gamma, gammas = option_of_parts(reader, "gamma", 0.01, "gamma")
    if settings and gamma:
        gamma = {"gamma": min(gamma["gamma"], rest(settings["density"]))}
    method = {
        "name": "breadcrumbs",
        **with_keep(settings, of_parts),
        **gamma,
        "trim": "tensor",
    }
    if reader.option("rescale", False):
        method["rescale"] = "l1"
    return {**method, "then": then}, part_weights(reader) | of_parts | gammas
