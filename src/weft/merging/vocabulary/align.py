"""A model seen with the rows of its embeddings where another vocabulary has these tokens."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from weft.merging.engine.source import Spec, TensorSource
from weft.merging.vocabulary.rows import MEAN, PADDING, RowPlan

if TYPE_CHECKING:
    from weft.merging.vocabulary.output import OutputVocabulary

_AT_ONCE = 1 << 20  # elements read for the mean of all rows


@dataclass(frozen=True, eq=False)
class Aligned:
    """A source whose vocabulary tensors have the rows of `output`'s tokens.

    Rows that it lacks are read from other models (`donors`, of which this is one). A tensor's
    dtype is the one that holds the numbers of all donors.
    """

    source: TensorSource
    output: OutputVocabulary
    axes: Mapping[str, int]  # tensor -> axis of tokens
    plans: Mapping[str, RowPlan]
    donors: Sequence[TensorSource]
    _padding: dict[str, Tensor] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return self.source.label

    @cached_property
    def specs(self) -> Mapping[str, Spec]:
        specs = dict(self.source.specs)
        for name, axis in self.axes.items():
            shape = list(specs[name].shape)
            shape[axis] = self.output.rows
            dtypes = [donor.specs[name].dtype for donor in self.donors]
            specs[name] = Spec(tuple(shape), functools.reduce(torch.promote_types, dtypes))
        return specs

    @property
    def signature(self) -> str:
        """What beside the source's files decides what is read."""
        return self.output.signature

    def read(self, name: str, start: int, count: int) -> Tensor:
        """Elements [start, start + count) of the flattened tensor, [count]."""
        if name not in self.plans:
            return self.source.read(name, start, count)
        width = self._width(name)
        first, last = start // width, -(-(start + count) // width)
        rows = self._rows(name, first, last)
        return rows.view(-1)[start - first * width :][:count]

    def _width(self, name: str) -> int:
        return math.prod(self.specs[name].shape[self.axes[name] + 1 :])

    def _rows(self, name: str, start: int, stop: int) -> Tensor:
        """[stop - start, width]"""
        width, plan = self._width(name), self.plans[name]
        rows = torch.zeros(stop - start, width, dtype=self.specs[name].dtype)
        at = 0
        for first, count, owner, row in plan.runs(start, stop):
            if owner >= 0:
                values = self.donors[owner].read(name, row * width, count * width)
                rows[at : at + count] = values.view(count, width)
            elif owner == MEAN:
                rows[at] = self._mean(name, plan.means[start + first])
            elif owner == PADDING:
                rows[at : at + count] = self._mean_row(name)
            at += count
        return rows

    def _mean(self, name: str, places: Sequence[tuple[int, int]]) -> Tensor:
        width = self._width(name)
        rows = [self.donors[k].read(name, row * width, width).double() for k, row in places]
        return torch.stack(rows).mean(0)

    def _mean_row(self, name: str) -> Tensor:
        """Of all rows that stand for a token: what new rows start from."""
        if name not in self._padding:
            width, owner = self._width(name), self.plans[name].owner
            total, step = torch.zeros(width, dtype=torch.float64), max(1, _AT_ONCE // max(width, 1))
            known = np.flatnonzero(owner != PADDING)
            stretches = np.split(known, np.flatnonzero(np.diff(known) != 1) + 1)
            for stretch in stretches if len(known) else ():
                first, last = int(stretch[0]), int(stretch[-1]) + 1
                for start in range(first, last, step):
                    rows = self._rows(name, start, min(start + step, last))
                    total += rows.double().sum(0)
            self._padding[name] = total / max(len(known), 1)
        return self._padding[name]
