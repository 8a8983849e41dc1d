"""Which examples stand in which batch: decided by the seed and the epoch, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weft.artifacts.hashing import hash_json

GROUP = 16  # batches that share one sorting by length


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of one of the training parts (one domain each)."""

    part: int
    rows: NDArray[np.int64]


def seed_of(*what: object) -> int:
    """A 60-bit seed out of anything JSON can hold."""
    return int(hash_json(list(what))[:15], 16)


def epoch_batches(
    parts: Sequence[Sized],
    lengths: Sequence[NDArray[np.int64]],
    batch: int,
    seed: int,
    epoch: int,
) -> list[Batch]:
    """All batches of one epoch, in training order.

    Every batch comes from one domain, so that in-batch negatives stay items of that domain's
    catalogue, and the domains' batches are shuffled among each other. Inside a group of 16
    batches examples are sorted by `lengths` (tokens of the history), because padding
    is waste. An incomplete last batch of a part is left out unless it is the part's only one.
    """
    random = np.random.Generator(np.random.PCG64(seed_of(seed, "batches", epoch)))
    batches: list[Batch] = []
    for number, (part, length) in enumerate(zip(parts, lengths, strict=True)):
        order = random.permutation(len(part))
        for start in range(0, len(order), GROUP * batch):
            group = order[start : start + GROUP * batch]
            group = group[np.argsort(length[group], kind="stable")]
            whole = [group[i : i + batch] for i in range(0, len(group), batch)]
            if len(whole[-1]) < batch and (start > 0 or len(whole) > 1):
                # Drop a random run of the sorted group rather than always the longest histories.
                skip = int(random.integers(0, len(group) - len(group) % batch + 1))
                group = np.delete(group, np.arange(skip, skip + len(group) % batch))
                whole = [group[i : i + batch] for i in range(0, len(group), batch)]
            batches.extend(Batch(number, rows) for rows in whole)
    return [batches[i] for i in random.permutation(len(batches))]
