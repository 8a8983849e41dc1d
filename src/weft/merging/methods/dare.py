"""DARE and DELLA: drop entries of task vectors at random, and rescale what is left."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from weft.errors import SettingError
from weft.merging.engine.masks import STEPS, at_least, draws, threshold
from weft.merging.engine.method import Block, Known, Pass, part_option
from weft.merging.mergekit.forms import (
    SPARSE,
    MergekitForm,
    Options,
    merged_by,
    option_of_parts,
    part_weights,
    rescaling,
    rest,
)
from weft.merging.mergekit.parameters import ParameterReader
from weft.merging.methods.base import Inner, Wrapper
from weft.merging.methods.linear import TaskArithmetic
from weft.merging.methods.ties import Ties

Rescale = Literal["exact", "l1", "none"]

_RATE = "share of entries to drop, rounded to a multiple of 1/65536"
_SEED = "masks depend on it, on the tensor's name, the part's label and the entry's position"
_RESCALE = (
    "exact: ÷ (1 - probability of being dropped), which keeps the expected value; l1: keep the "
    "sum of magnitudes of each tensor of a part; none"
)
_THEN = "the method that merges what is left"


class _Dropping(Wrapper):
    """Random masks, then another method."""

    drop_rate: float
    seed: int
    rescale: Rescale

    def measures(self) -> Sequence[Pass]:
        return [Pass("l1", self._sums, _ratios)] if self.rescale == "l1" else []

    def thin(self, block: Block, known: Known) -> Sequence[Tensor]:
        parts = [
            self._drop(block, known, k) if w else block.parts[k]
            for k, w in enumerate(block.weights)
        ]
        if self.rescale != "l1":
            return parts
        return [part.mul_(ratio) for part, ratio in zip(parts, known["l1"], strict=True)]

    def _thinned(self, block: Block, known: Known) -> Block:
        # A method within that drops at random too must not draw the same numbers.
        labels = tuple(f"{label}\0then" for label in block.labels)
        return replace(super()._thinned(block, known), labels=labels)

    @abstractmethod
    def _mask(self, block: Block, known: Known, k: int) -> Tensor | None:
        """What part k is multiplied by [n] float32, all but the ratio of `l1`; None for 1."""

    def _drop(self, block: Block, known: Known, k: int) -> Tensor:
        mask = self._mask(block, known, k)
        return block.parts[k] if mask is None else block.parts[k].mul_(mask)

    def _draws(self, block: Block, k: int, steps: int = STEPS) -> NDArray[np.uint8 | np.uint16]:
        return draws(self.seed, block.name, block.labels[k], block.start, block.size, steps)

    def _sums(self, block: Block, known: Known) -> Tensor:
        """Σ |τ_k| before and after dropping: [K, 2] float64."""
        sums = []
        for k, part in enumerate(block.parts):
            mask, sizes = self._mask(block, known, k), part.abs_()
            before = sizes.sum()
            sums += [before, before if mask is None else torch.dot(sizes, mask)]
        return torch.stack(sums).view(-1, 2).to(torch.float64)


def _ratios(sums: Tensor, known: Known, n: int) -> list[float]:
    return [before / after if after else 1.0 for before, after in sums.tolist()]


class Dare(_Dropping):
    """Drop entries of the task vectors at random, rescale the rest, then merge.

    τ'_k = m τ_k / (1 - p), m = 0 with probability p (Yu et al. 2023, arXiv 2311.03099, Eq. 3).
    """

    name: ClassVar[str] = "dare"
    source: ClassVar[str] = "Yu et al. 2023, arXiv 2311.03099"
    options_by_part: ClassVar[tuple[str, ...]] = ("drop_rate",)

    drop_rate: float = Field(
        default=0.5,
        ge=0,
        lt=1,
        description=_RATE + "; the paper goes up to 0.9 and more, MMGRid uses 0.1",
    )
    rescale: Rescale = Field(default="exact", description=_RESCALE)
    seed: int = Field(default=0, description=_SEED)
    then: Inner = Field(default=TaskArithmetic(), description=_THEN)

    @classmethod
    def mergekit_forms(cls) -> Mapping[str, MergekitForm]:
        return {
            "dare_ties": MergekitForm("origin", _dare, SPARSE),
            "dare_linear": MergekitForm("origin", _dare, SPARSE),
        }

    def _mask(self, block: Block, known: Known, k: int) -> Tensor | None:
        rate = part_option(known, "drop_rate", k, self.drop_rate)
        if rate >= 1:
            return torch.zeros_like(block.parts[k])
        dropped, steps = threshold(rate)
        if not dropped:
            return None
        mask = at_least(self._draws(block, k, steps), dropped)
        return mask.mul_(steps / (steps - dropped)) if self.rescale == "exact" else mask


class Della(_Dropping):
    """Drop small entries more often than large ones, rescale the rest, then merge.

    MagPrune: in a row of n entries, the one that r others exceed in magnitude is dropped with
    probability p_r = p - ε/2 + ε (r + ½)/n, and else divided by 1 - p_r; then signs are elected
    and those that agree averaged (Deep et al. 2024, arXiv 2406.11617, section 3). The paper's
    p_r, ε r/n above p - ε/2, differs by ε/2n: with the half, the mean over a row is p itself. A
    tensor of one axis is one row; of equal magnitudes, the later one counts as larger.
    """

    name: ClassVar[str] = "della"
    source: ClassVar[str] = "Deep et al. 2024, arXiv 2406.11617"
    options_by_part: ClassVar[tuple[str, ...]] = ("drop_rate", "window")

    drop_rate: float = Field(default=0.5, ge=0, lt=1, description=_RATE)
    window: float = Field(
        default=0.2,
        ge=0,
        lt=1,
        description="ε, how far the probabilities of the smallest and the largest entry of a row "
        "lie apart (in mergekit, half of it is called epsilon)",
    )
    rescale: Rescale = Field(default="exact", description=_RESCALE)
    seed: int = Field(default=0, description=_SEED)
    then: Inner = Field(default=Ties(density=1.0, zeros="positive"), description=_THEN)

    @classmethod
    def mergekit_forms(cls) -> Mapping[str, MergekitForm]:
        return {
            "della": MergekitForm("origin", _della, (*SPARSE, "epsilon")),
            "della_linear": MergekitForm("origin", _della, (*SPARSE, "epsilon")),
        }

    @model_validator(mode="after")
    def _probabilities(self) -> Self:
        if self.drop_rate and not self.window / 2 <= self.drop_rate <= 1 - self.window / 2:
            raise ValueError("drop_rate ± window/2 must lie between 0 and 1")
        return self

    def _mask(self, block: Block, known: Known, k: int) -> Tensor | None:
        rate = part_option(known, "drop_rate", k, self.drop_rate)
        window = part_option(known, "window", k, self.window)
        if not rate:
            return None
        if rate >= 1:
            return torch.zeros_like(block.parts[k])
        if not window / 2 <= rate <= 1 - window / 2:
            raise SettingError(
                f"tensor '{block.name}': drop_rate ± window/2 must lie between 0 and 1, "
                f"not {rate:g} ± {window / 2:g}"
            )
        rows = block.parts[k].view(-1, block.columns)
        dropped = drop_thresholds(rows, rate, window).view(-1)
        mask = at_least(self._draws(block, k).astype(np.float32), dropped.numpy())
        if self.rescale == "exact":
            mask.mul_(STEPS).div_(dropped.neg_().add_(STEPS))
        return mask


def drop_thresholds(rows: Tensor, rate: float, window: float) -> Tensor:
    """The number of steps (of 1/STEPS) below which an entry is dropped: [rows, n] float32."""
    n = rows.shape[1]
    # Magnitude first, then position: keys that differ, so that any way of sorting agrees.
    keys = (rows.view(torch.int32).to(torch.int64) & 0x7FFFFFFF).bitwise_left_shift_(32)
    keys.add_(torch.arange(n)).numpy().sort(axis=1)
    exceeded_by = np.arange(n)[::-1]
    rates = rate - window / 2 + window * (exceeded_by + 0.5) / n
    steps = np.clip(np.rint(rates * STEPS), 0, STEPS - 1).astype(np.float32)
    places = keys.bitwise_and_(0xFFFFFFFF)
    return torch.empty_like(rows).scatter_(1, places, torch.from_numpy(steps).expand_as(rows))


def _dare(reader: ParameterReader) -> tuple[dict[str, Any], Options]:
    settings, of_parts = option_of_parts(reader, "density", 1.0, "drop_rate", rest)
    then = merged_by(reader)
    if not of_parts and settings["drop_rate"] <= 0:
        return then, part_weights(reader)
    method = {"name": "dare", **settings, "rescale": rescaling(reader), "then": then}
    return method, part_weights(reader) | of_parts


def _della(reader: ParameterReader) -> tuple[dict[str, Any], Options]:
    """mergekit's epsilon is half of how far the probabilities lie apart."""
    settings, of_parts = option_of_parts(reader, "density", 1.0, "drop_rate", rest)
    then = merged_by(reader, normalize=reader.method == "della")
    if not of_parts and settings["drop_rate"] <= 0:
        return then, part_weights(reader)
    window, windows = option_of_parts(reader, "epsilon", 0.15, "window", lambda value: 2 * value)
    method = {"name": "della", **settings, **window, "rescale": rescaling(reader), "then": then}
    return method, part_weights(reader) | of_parts | windows
