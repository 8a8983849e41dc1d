"""How much of what is tested lies before what was trained on: leakage of a split through time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from weft.data.domain import Examples
from weft.data.filters import has_real_times
from weft.evaluation.candidates import train_counts

_NEVER = np.iinfo(np.int64).min


@dataclass(frozen=True)
class LastTraining:
    """When each user was last seen in training: `frame` has `user_id` and `time`, a row per user.

    Training sees a user's sequence up to the last of their training targets.
    """

    frame: pl.DataFrame

    @classmethod
    def of(cls, train: Examples) -> LastTraining | None:
        """Of the whole training part of a split; None if the domain has an order index, no times."""
        domain = train.domain
        if not has_real_times(domain):
            return None
        sequences = domain.sequences
        last = np.full(len(sequences), -1, dtype=np.int64)
        np.maximum.at(last, train.user, train.end)
        users = np.flatnonzero(last >= 0)
        return cls(
            pl.DataFrame(
                {
                    "user_id": sequences.user_ids.gather(users).alias("user_id"),
                    "time": sequences.time[sequences.offsets[users] + last[users]],
                },
                schema={"user_id": pl.String, "time": pl.Int64},
            )
        )


@dataclass(frozen=True)
class TargetFacts:
    """What training could know of the test targets. Shares are of targets."""

    targets: int
    earlier: float | None  # before the last training interaction of another user of the domain
    earlier_anywhere: float | None  # … of another user of any domain that is trained on
    domains: int  # that are trained on and have times
    new_items: float  # in no training history or target
    new_users: float  # whose user has no training target


def earlier_share(test: Examples, training: Sequence[LastTraining]) -> float:
    """The share of test targets whose time is before the latest training interaction of any user
    with another id, over all of `training`."""
    every = pl.concat([one.frame for one in training]) if training else pl.DataFrame()
    if not every.height:
        return 0.0
    latest = every.group_by("user_id").agg(pl.col("time").max()).sort("time", descending=True)
    first, second = latest["time"][0], latest["time"][1] if latest.height > 1 else _NEVER
    of_first = np.array(test.user_ids(), dtype=object) == latest["user_id"][0]
    others = np.where(of_first, second, first)
    sequences = test.domain.sequences
    time = sequences.time[sequences.offsets[test.user] + test.end]
    return float((time < others).mean())


def target_facts(
    test: Examples, train: Examples, training: Sequence[LastTraining | None]
) -> TargetFacts:
    """What is known of the targets of `test`; `train` is the same domain's whole training part,
    `training` are all domains' that models are trained on."""
    last = LastTraining.of(train)
    timed = [one for one in training if one is not None]
    trained: NDArray[np.bool_] = np.isin(test.user, train.user)
    return TargetFacts(
        targets=len(test),
        earlier=None if last is None else earlier_share(test, [last]),
        earlier_anywhere=None if last is None else earlier_share(test, timed),
        domains=len(timed),
        new_items=float((train_counts(train)[test.targets] == 0).mean()),
        new_users=float((~trained).mean()),
    )
