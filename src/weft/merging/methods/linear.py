"""Weighted sums of weights, and of task vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from weft.errors import SettingError
from weft.merging.engine.method import Block, Known
from weft.merging.mergekit.forms import MergekitForm, Options, part_weights, plain_sum
from weft.merging.mergekit.parameters import ParameterReader
from weft.merging.methods.base import MergeMethod
from weft.merging.methods.sums import normalized, shares, weighted_sum


class Linear(MergeMethod):
    """Weighted sum of the weights themselves.

    θ = Σ w_k θ_k, by default the mean ("model soups", Wortsman et al. 2022, arXiv 2203.05482). A
    weight of 1 beside zeros gives that part bit for bit.

    >>> import torch
    >>> parts = (torch.tensor([1.0, 2.0]), torch.tensor([3.0, 6.0]))
    >>> block = Block("layer.weight", 0, 2, parts, weights=(3.0, 1.0), labels=("books", "toys"))
    >>> Linear(normalize=True).combine(block, {})
    tensor([1.5000, 3.0000])
    """

    name: ClassVar[str] = "linear"
    source: ClassVar[str] = "Wortsman et al. 2022, arXiv 2203.05482"
    is_sum: ClassVar[bool] = True

    normalize: bool = Field(default=False, description="divide the weights by their sum")

    @classmethod
    def mergekit_forms(cls) -> Mapping[str, MergekitForm]:
        return {
            "linear": MergekitForm("ignored", _linear, ("weight", "normalize")),
            "passthrough": MergekitForm("ignored", _passthrough, ("scale",)),
        }

    def default_weights(self, parts: int) -> list[float]:
        return [1 / parts] * parts

    def sum_weights(self, weights: Sequence[float]) -> list[float]:
        return normalized(weights) if self.normalize else list(weights)

    def combine(self, block: Block, known: Known) -> Tensor:
        return weighted_sum(block.parts, shares(block) if self.normalize else block.weights)


class TaskArithmetic(MergeMethod):
    """Base plus the weighted sum of task vectors.

    θ = θ_base + s Σ w_k τ_k (Ilharco et al. 2022, arXiv 2212.04089), computed as
    (1 - s Σ w_k) θ_base + Σ s w_k θ_k: where s Σ w_k = 1 the base has no part in it.
    """

    name: ClassVar[str] = "task_arithmetic"
    source: ClassVar[str] = "Ilharco et al. 2022, arXiv 2212.04089"
    is_sum: ClassVar[bool] = True
    needs_base: ClassVar[bool] = True

    scale: float = Field(default=1.0, description="factor on the sum of task vectors")
    normalize: bool = Field(default=False, description="divide the weights by their sum")

    @classmethod
    def mergekit_forms(cls) -> Mapping[str, MergekitForm]:
        return {
            "task_arithmetic": MergekitForm(
                "origin", _task_arithmetic, ("weight", "normalize", "lambda")
            ),
        }

    @property
    def keeps_parts(self) -> bool:
        return not self.normalize

    def default_weights(self, parts: int) -> list[float]:
        return [0.2] * parts

    def sum_weights(self, weights: Sequence[float]) -> list[float]:
        return [self.scale * w for w in (normalized(weights) if self.normalize else weights)]

    def combine(self, block: Block, known: Known) -> Tensor:
        weights = shares(block) if self.normalize else block.weights
        return on_base(block.parts, [self.scale * w for w in weights], block.base)


def on_base(parts: Sequence[Tensor], weights: Sequence[float], base: Tensor | None) -> Tensor:
    """(1 - Σ w) θ_base + Σ w_k θ_k [n] float32; a base of None is zero."""
    total = weighted_sum(parts, weights)
    rest = math.fsum([1.0, *(-weight for weight in weights)])
    return total if base is None or not rest else total.add_(base, alpha=rest)


def _linear(reader: ParameterReader) -> tuple[dict[str, Any], Options]:
    normalize = reader.option("normalize", True)
    return {"name": "linear", "normalize": normalize}, part_weights(reader)


def _passthrough(reader: ParameterReader) -> tuple[dict[str, Any], Options]:
    if len(reader.models) != 1:
        raise SettingError(f"passthrough takes one model, not {len(reader.models)}")
    scale = reader.weights("scale", reader.models[0], 1.0)
    return {"name": "linear", "normalize": False}, {"weight": [scale]}


def _task_arithmetic(reader: ParameterReader) -> tuple[dict[str, Any], Options]:
    return plain_sum(reader), part_weights(reader)
