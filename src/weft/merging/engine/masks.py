"""Random masks that depend on what is masked, not on who masks it when.

Every element has its own random number, a function of the seed, the tensor's name, the part's
label and the element's position: the same at any number of threads, cut of blocks, layout of
files and order of parts.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

STEPS = 1 << 16  # probabilities are whole numbers of 1/STEPS
COARSE = 1 << 8  # or of 1/COARSE, where that is the same: half as many bits are drawn


def draws(
    seed: int, name: str, label: str, start: int, count: int, steps: int = STEPS
) -> NDArray[np.uint8 | np.uint16]:
    """Uniform numbers below `steps` for elements [start, start + count) of a tensor, [count].

    PCG64 DXSM, seeded by the SHA-256 of (seed, name, label) and advanced to the element's
    position: as good as a counter, and a third of Philox's time.
    """
    digest = hashlib.sha256(repr((seed, name, label)).encode()).digest()
    in_word = 4 if steps == STEPS else 8
    first, skipped = divmod(start, in_word)
    bits = np.random.PCG64DXSM(int.from_bytes(digest, "little"))
    bits.advance(first)
    words = -(-(skipped + count) // in_word)
    # The raw stream; `random_raw` would hold the GIL.
    raw = np.random.Generator(bits).integers(0, 1 << 64, words, dtype=np.uint64)
    kind = "<u2" if steps == STEPS else "u1"
    return raw.astype("<u8", copy=False).view(kind)[skipped : skipped + count]


def threshold(drop_rate: float) -> tuple[int, int]:
    """(dropped, steps): an element whose number is below `dropped` out of `steps` is dropped;
    never are all of them."""
    steps = COARSE if (drop_rate * COARSE).is_integer() else STEPS
    return min(round(drop_rate * steps), steps - 1), steps


def at_least(numbers: NDArray[Any], least: float | NDArray[Any]) -> Tensor:
    """1.0 where a number is not below `least`, else 0.0: [n] float32.

    >>> at_least(np.array([1, 5, 3]), 3)
    tensor([0., 1., 1.])
    """
    # NumPy compares, as torch takes five times as long for it.
    return torch.from_numpy((numbers >= least).view(np.uint8)).to(torch.float32)
