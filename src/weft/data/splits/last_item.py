"""Leave one out: each user's last item is tested."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import model_serializer

from weft.data.domain import Domain, Examples
from weft.data.splits.base import Split, SplitSettings, every_target


class LeaveOneOut(SplitSettings):
    """Each user's last item tests, the one before validates, all earlier ones train."""

    SHORT = "leave_one_out"
    kind: Literal["leave_one_out"] = "leave_one_out"

    def make(self, domain: Domain) -> Split:
        return leave_one_out(domain)

    @model_serializer
    def _short(self) -> str:
        """It has no settings: in JSON and YAML it is its name."""
        return self.kind

    def __str__(self) -> str:
        return self.kind


def leave_one_out(domain: Domain) -> Split:
    """Test: each user's last item; validation: the one before; train: all earlier ones.

    For i1 … iL the train targets are i2 … i(L-2), each with all items before it as history.
    A user of length 3 has no train example. A user of length 2 gives its one example to train
    and is not evaluated; a user of length 1 gives none.

    >>> from weft.data.mall import mall
    >>> toys = mall(users=60, items=40)["toys"]
    >>> split = leave_one_out(toys)
    >>> len(split.train), len(split.validation), len(split.test)
    (273, 60, 60)
    >>> toys.sequences.of(0), split.test.targets[0], split.test.histories()[0]
    (array([25, 24, 31, 12,  0], dtype=int32), np.int32(0), array([25, 24, 31, 12], dtype=int32))
    """
    lengths = domain.sequences.lengths
    evaluated = np.flatnonzero(lengths >= 3)
    train = np.where(lengths >= 3, lengths - 2, np.minimum(lengths, 2))
    return Split(
        "leave_one_out",
        every_target(domain, train),
        Examples(domain, evaluated, lengths[evaluated] - 2),
        Examples(domain, evaluated, lengths[evaluated] - 1),
    )
