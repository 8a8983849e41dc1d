"""Whether a training learned: its last steps against the loss of guessing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import t as student

LEAST, SHARE, MOST = 5, 0.1, 200  # of all steps, those that count as its last
MARGIN = 0.01  # of the loss of guessing: what is within it is no better
SURE, SURE_OF_SLOPE = 0.95, 0.99  # of one-sided bounds
MANY = 20  # last steps from which on a gain that can't be seen is none

Outcome = Literal["learned", "collapsed", "too short to judge"]


def last_steps(steps: int) -> int:
    """How many of so many steps count as the last: a tenth, between 5 and 200."""
    return min(MOST, max(LEAST, math.ceil(SHARE * steps)))


@dataclass(frozen=True)
class Ending:
    """How a training ended: means over its last steps, in nats, and what they come to."""

    outcome: Outcome
    loss: float
    spread: float  # standard error of the mean
    guessing: float
    steps: int  # that were looked at
    falling: bool


def judge(losses: Sequence[float], guessing: Sequence[float]) -> Ending:
    """How a training ended, by the losses of its last steps and those of guessing: both [n], nats.

    *Learned*: the mean gain is clearly (one-sided t-bound of 95 %) above 1 % of guessing's loss.
    *Collapsed*: it is clearly not, or of 20 steps or more the test decides nothing; and the losses don't
    clearly fall. *Too short to judge*: fewer than 5 steps, or neither of these.
    """
    count = len(losses)
    measured, chance = np.asarray(losses, dtype=np.float64), np.asarray(guessing, dtype=np.float64)
    loss, guess = (float(x.mean()) if count else 0.0 for x in (measured, chance))
    if count < LEAST:
        return Ending("too short to judge", loss, 0.0, guess, count, False)
    gain = chance - measured
    error = float(gain.std(ddof=1)) / math.sqrt(count)
    reach = float(student.ppf(SURE, count - 1)) * error
    low, high = float(gain.mean()) - reach, float(gain.mean()) + reach
    falling = _falls(-gain)
    outcome: Outcome = "too short to judge"
    if low > MARGIN * guess:
        outcome = "learned"
    elif not falling and (high <= MARGIN * guess or count >= MANY):
        outcome = "collapsed"
    return Ending(outcome, loss, error, guess, count, falling)


def _falls(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> bool:
    """Whether the slope of a line through the values is clearly (99 %) below 0."""
    count = len(values)
    places = np.arange(count) - (count - 1) / 2
    sizes = float(places @ places)
    slope = float(places @ values) / sizes
    rest = values - values.mean() - slope * places
    error = math.sqrt(float(rest @ rest) / max(1, count - 2) / sizes)
    return slope + float(student.ppf(SURE_OF_SLOPE, max(1, count - 2))) * error < 0
