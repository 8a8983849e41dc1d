"""Means on the sphere: of directions, where a plain mean would shrink the norm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from weft.errors import SettingError
from weft.merging.engine.method import Block, Known, Pass
from weft.merging.mergekit.forms import MergekitForm, Options, part_weights
from weft.merging.mergekit.parameters import ParameterReader, changed_weight
from weft.merging.methods.base import MergeMethod
from weft.merging.methods.sums import gram_pass, inner_products, shares, weighted_sum

Matrix = NDArray[np.float64]


class Slerp(MergeMethod):
    """Spherical interpolation between two parts, tensor by tensor.

    sin((1-t)Ω)/sin Ω · θ_1 + sin(tΩ)/sin Ω · θ_2, Ω the angle between them, t the second weight's
    share (Shoemake 1985). Nearly parallel, opposite and zero tensors are interpolated linearly.
    """

    name: ClassVar[str] = "slerp"
    source: ClassVar[str] = "Shoemake 1985"
    takes: ClassVar[Literal["2"]] = "2"

    parallel: float = Field(
        default=0.9995, gt=0, lt=1, description="interpolate linearly from this |cosine| on"
    )
    norm: Literal["kept", "mean"] = Field(
        default="kept",
        description="kept: interpolate the tensors as they are; "
        "mean: their directions, then scale to the weighted mean of the norms",
    )

    @classmethod
    def mergekit_forms(cls) -> Mapping[str, MergekitForm]:
        return {"slerp": MergekitForm("part", _slerp, ("t",))}

    def default_weights(self, parts: int) -> list[float]:
        return [0.5] * parts

    def passes(self) -> Sequence[Pass]:
        return [gram_pass()]

    def combine(self, block: Block, known: Known) -> Tensor:
        pair = slerp_pair(known["gram"], shares(block), self.parallel, self.norm == "mean")
        return weighted_sum(block.parts, pair)


class Nuslerp(MergeMethod):
    """Spherical interpolation between two task vectors, whole or row by row.

    `slerp` of τ_1 and τ_2 about a base, or of the weights themselves without one; t is the second
    weight's share, and .5 where the weights sum to 0 (NuSLERP of mergekit). Only exactly parallel
    or opposite vectors are interpolated linearly; a zero vector stands at a right angle.
    """

    name: ClassVar[str] = "nuslerp"
    source: ClassVar[str] = "Shoemake 1985; NuSLERP in mergekit"
    relative: ClassVar[bool] = True
    rows: ClassVar[bool] = True
    takes: ClassVar[Literal["2"]] = "2"

    along: Literal["tensor", "rows", "columns"] = Field(
        default="tensor",
        description="one angle for the tensor, for every row (along the last axis), or for every "
        "column of a matrix; a vector has one",
    )

    @classmethod
    def mergekit_forms(cls) -> Mapping[str, MergekitForm]:
        return {
            "nuslerp": MergekitForm(
                "optional", _nuslerp, ("weight", "nuslerp_flatten", "nuslerp_row_wise")
            )
        }

    def default_weights(self, parts: int) -> list[float]:
        return [0.5] * parts

    def passes(self) -> Sequence[Pass]:
        if self.along == "rows":
            return []
        look = _column_products if self.along == "columns" else _products
        return [Pass(_TURNED, look, _settle_columns, per_part=False)]

    def combine(self, block: Block, known: Known) -> Tensor:
        total = math.fsum(block.weights)
        t = 0.5 if abs(total) < 1e-6 else block.weights[1] / total
        one, other = (part.view(-1, block.columns) for part in block.parts)
        if self.along == "rows":
            first, second = (c[:, None] for c in arc(inner_products(block.parts, block.columns), t))
        else:
            first, second = arc(known[_TURNED], t)
        return one.mul_(first).add_(other.mul_(second)).view(-1)


_TURNED = "nuslerp.products"


def _products(block: Block, known: Known) -> Tensor:
    """[1, 2, 2] float64."""
    return inner_products(block.parts)[None]


def _column_products(block: Block, known: Known) -> Tensor:
    """Inner products of the two parts in every column: [columns, 2, 2] float64."""
    one, other = (part.view(-1, block.columns).double() for part in block.parts)
    both = (one * other).sum(0)
    products = [(one * one).sum(0), both, both, (other * other).sum(0)]
    return torch.stack(products, dim=-1).view(-1, 2, 2)


def _settle_columns(total: Tensor, known: Known, n: int) -> Tensor:
    return total.sum(0, keepdim=True) if n == len(total) else total  # a vector is one column


def arc(products: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """Coefficients [m] float32 of two vectors on the arc between them, from [m, 2, 2] float64."""
    norms = products.diagonal(dim1=-2, dim2=-1).sqrt().clamp(min=1e-7)
    cosines = (products[:, 0, 1] / norms.prod(-1)).clamp(-1, 1)
    straight = 1 - cosines.square() <= 1e-16
    angle = torch.acos(torch.where(straight, 0.0, cosines))
    pair = []
    for share in (1 - t, t):
        bent = torch.sin(share * angle) / torch.sin(angle)
        pair.append(torch.where(straight, share, bent).to(torch.float32))
    return pair[0], pair[1]


class Multislerp(MergeMethod):
    """The direction of the mean of directions, as long as the mean of the lengths.

    Σ w_k |τ_k| · m / |m|, m = Σ w_k τ_k/|τ_k|, about a base or of the weights themselves. (The steps
    of mergekit's multislerp through a tangent space at m cancel out: what is added there is 0.)
    Where the directions cancel out, the result is Σ w_k τ_k.
    """

    name: ClassVar[str] = "multislerp"
    source: ClassVar[str] = "goddard.blog/posts/multislerp-wow-what-a-cool-idea"
    relative: ClassVar[bool] = True

    normalize: bool = Field(default=True, description="divide the weights by their sum")

    @classmethod
    def mergekit_forms(cls) -> Mapping[str, MergekitForm]:
        return {
            "multislerp": MergekitForm("optional", _multislerp, ("weight", "normalize_weights"))
        }

    def default_weights(self, parts: int) -> list[float]:
        return [1 / parts] * parts

    def passes(self) -> Sequence[Pass]:
        return [gram_pass()]

    def combine(self, block: Block, known: Known) -> Tensor:
        weights = np.array(shares(block) if self.normalize else block.weights)
        norms = np.sqrt(np.diag(known["gram"]))
        inverse = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
        direction = _unit(weights, known["gram"] * np.outer(inverse, inverse))
        if not direction.any():
            return weighted_sum(block.parts, weights.tolist())
        scale = float(weights @ norms)
        return weighted_sum(block.parts, (scale * direction * inverse).tolist())


def slerp_pair(
    products: Matrix, share: Sequence[float], parallel: float, mean: bool
) -> list[float]:
    """Coefficients of the two tensors, from their inner products [2, 2].

    >>> at_right_angles = np.array([[4.0, 0.0], [0.0, 4.0]])
    >>> [round(c, 4) for c in slerp_pair(at_right_angles, [0.5, 0.5], 0.9995, mean=False)]
    [0.7071, 0.7071]
    """
    norms = np.sqrt(np.diag(products))
    if not norms.all():
        return list(share)
    cosine = float(products[0, 1] / (norms[0] * norms[1]))
    if abs(cosine) >= parallel:
        return list(share)
    angle = math.acos(cosine)
    pair = [math.sin(part * angle) / math.sin(angle) for part in share]
    if not mean:
        return pair
    length = float(np.dot(share, norms))
    return [c * length / float(norm) for c, norm in zip(pair, norms, strict=True)]


class Karcher(MergeMethod):
    """Spherical mean of any number of parts, tensor by tensor.

    The Riemannian (Karcher) mean of the directions θ_k/|θ_k|, the point that minimises
    Σ w_k angle², scaled to the weighted mean of the norms; of two parts, their `slerp` with
    `norm: mean`. Found in the space of coefficients, from inner products alone.
    """

    name: ClassVar[str] = "karcher"
    source: ClassVar[str] = "Karcher 1977; Buss and Fillmore 2001, doi 10.1145/502122.502124"

    iterations: int = Field(default=100, ge=1, description="at most so many steps")
    tolerance: float = Field(
        default=1e-10, ge=0, description="stop at a step of this angle (radians)"
    )

    @classmethod
    def mergekit_forms(cls) -> Mapping[str, MergekitForm]:
        return {"karcher": MergekitForm("ignored", _karcher, ("max_iter", "tol"))}

    def default_weights(self, parts: int) -> list[float]:
        return [1 / parts] * parts

    def passes(self) -> Sequence[Pass]:
        return [gram_pass()]

    def combine(self, block: Block, known: Known) -> Tensor:
        coefficients = karcher_mean(known["gram"], shares(block), self.iterations, self.tolerance)
        return weighted_sum(block.parts, coefficients)


def karcher_mean(
    products: Matrix, share: Sequence[float], iterations: int, tolerance: float
) -> list[float]:
    """Coefficients [K] of the tensors, from their inner products [K, K].

    The mean is m = Σ c_k u_k over unit vectors u_k. A step goes along
    v = Σ w_k Ω_k/sin Ω_k (u_k - cos Ω_k m), Ω_k the angle of m and u_k: m ← cos|v| m + sin|v| v/|v|.
    Tensors of zero norm have no direction: they count in the mean of the norms only. Where the
    directions cancel out, no mean is nearer than another: the result is then the linear one.
    """
    norms = np.sqrt(np.diag(products))
    weights = np.array(share) * (norms > 0)
    if np.count_nonzero(weights) < 2 or not weights.sum():
        return list(share)
    inverse = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
    cosines = np.clip(products * np.outer(inverse, inverse), -1, 1)
    weights /= weights.sum()
    mean = _unit(weights, cosines)
    if not mean.any():
        return list(share)
    for _ in range(iterations):
        near = np.clip(cosines @ mean, -1, 1)
        sines = np.sqrt(1 - near**2)
        pull = np.where(sines > 1e-9, np.arccos(near) / np.maximum(sines, 1e-9), near > 0)
        step = weights * pull
        step = step - (step @ near) * mean
        length = math.sqrt(max(0.0, step @ cosines @ step))
        if length <= tolerance:
            break
        mean = _unit(math.cos(length) * mean + math.sin(length) / length * step, cosines)
    scale = float(np.dot(share, norms))
    return [float(c) for c in scale * mean * inverse]


def _unit(coefficients: Matrix, cosines: Matrix) -> Matrix:
    """Scaled to norm 1; zero where the directions cancel out."""
    square = float(coefficients @ cosines @ coefficients)
    return coefficients / math.sqrt(square) if square > 1e-18 else np.zeros_like(coefficients)


def _slerp(reader: ParameterReader) -> tuple[dict[str, Any], Options]:
    """From the base (t = 0) to the other model (t = 1)."""
    if reader.base is None or len(reader.models) != 2:
        raise SettingError("slerp goes from base_model to one other model")
    t = reader.weights("t", None)
    return {"name": "slerp"}, {"weight": [changed_weight(t, lambda value: 1 - value, "t"), t]}


def _nuslerp(reader: ParameterReader) -> tuple[dict[str, Any], Options]:
    if len(reader.models) != 2:
        raise SettingError(
            f"nuslerp goes from one model to another, and there are {len(reader.models)}"
        )
    along = "tensor"
    if not reader.option("nuslerp_flatten", True):
        along = "columns" if reader.option("nuslerp_row_wise", False) else "rows"
    return {"name": "nuslerp", "along": along}, part_weights(reader)


def _multislerp(reader: ParameterReader) -> tuple[dict[str, Any], Options]:
    if len(reader.models) == 1:  # mergekit takes it as it is, whatever its weight
        return {"name": "linear", "normalize": False}, {"weight": [1.0]}
    normalize = reader.option("normalize_weights", True)
    return {"name": "multislerp", "normalize": normalize}, part_weights(reader)


def _karcher(reader: ParameterReader) -> tuple[dict[str, Any], Options]:
    settings = {
        "name": "karcher",
        "iterations": reader.option("max_iter", 10),
        "tolerance": reader.option("tol", 1e-5),
    }
    return settings, {}
