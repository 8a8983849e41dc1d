"""A split at one time for everybody: nothing that trains is later than what is tested."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from weft.data.domain import Domain, Examples
from weft.data.filters import Time, require_real_times
from weft.data.splits.base import Split, SplitSettings, every_target
from weft.errors import DataError, SettingError

_SHARES = "two numbers between 0 and 1 are needed, the smaller one first"
_TWO = "two shares or two times are needed, as in global_time:0.8,0.9 or global_time:2014-01-01,2014-03-01"


class TimeSplit(SplitSettings):
    """Targets before `validation_from` train, those up to `test_from` validate, the rest test.

    The two times are settings, or they are taken from each domain as `quantiles` of its interactions
    in order of time. Cold users and items are those that training has not seen.
    """

    SHORT = "global_time:FROM,TEST"
    OTHER_NAMES = ("by_time",)
    kind: Literal["global_time"] = "global_time"
    quantiles: tuple[float, float] | None = Field(
        default=None,
        description="shares before validation and before test; (0.8, 0.9) where no times are set",
    )
    validation_from: Time | None = Field(default=None, description="date or Unix seconds")
    test_from: Time | None = Field(default=None, description="date or Unix seconds")
    test_until: Time | None = Field(default=None, description="first time not tested any more")
    targets: Literal["every", "first", "last"] = Field(
        default="every", description="of a user's interactions within validation, and within test"
    )
    cold_users: Literal["keep", "drop"] = "keep"
    cold_items: Literal["keep", "drop"] = "keep"

    @field_validator("quantiles", mode="before")
    @classmethod
    def _two(cls, quantiles: object) -> object:
        if quantiles is not None and not (
            isinstance(quantiles, list | tuple) and len(quantiles) == 2
        ):
            raise ValueError(_SHARES)
        return quantiles

    @field_validator("quantiles")
    @classmethod
    def _in_order(cls, quantiles: tuple[float, float] | None) -> tuple[float, float] | None:
        if quantiles is not None and not 0 < quantiles[0] <= quantiles[1] < 1:
            raise ValueError(_SHARES)
        return quantiles

    @model_validator(mode="after")
    def _window(self) -> TimeSplit:
        start, stop, end = self.validation_from, self.test_from, self.test_until
        if (start is None) != (stop is None):
            raise ValueError("validation_from and test_from go together")
        if start is not None and self.quantiles is not None:
            raise ValueError("set either quantiles, or validation_from and test_from")
        if start is not None and stop is not None and start > stop:
            raise ValueError("validation_from must not be after test_from")
        if stop is not None and end is not None and stop >= end:
            raise ValueError("test_from must be before test_until")
        return self

    @classmethod
    def from_short(cls, text: str) -> Mapping[str, Any]:
        parts = [part.strip() for part in text.split(",")]
        if len(parts) != 2:
            raise SettingError(_TWO)
        try:
            return {"quantiles": [_share(part) for part in parts]}
        except ValueError:
            return {"validation_from": parts[0], "test_from": parts[1]}

    def make(self, domain: Domain) -> Split:
        return split_globally(domain, self)

    def __str__(self) -> str:
        if self.validation_from is None or self.test_from is None:
            first, second = self.shares
            words = [f"validation from {first:g} of the interactions, test from {second:g}"]
        else:
            words = [
                f"validation from {_iso(self.validation_from)}, test from {_iso(self.test_from)}"
            ]
        if self.test_until is not None:
            words.append(f"until {_iso(self.test_until)}")
        words.append(f"{self.targets} target")
        words += [
            f"without cold {name}"
            for name, choice in (("users", self.cold_users), ("items", self.cold_items))
            if choice == "drop"
        ]
        return f"global_time: {', '.join(words)}"

    @property
    def shares(self) -> tuple[float, float]:
        """The quantiles, where no times are set."""
        return self.quantiles or (0.8, 0.9)

    def cuts(self, domain: Domain) -> tuple[int, int]:
        """Where validation and test begin in a domain, in Unix seconds.

        A quantile q is the time of the interaction at place ⌊q · n⌋ (from 0) of all n in order
        of time; whatever has that very time lies after the cut. A domain without times is a
        `MismatchError`.
        """
        require_real_times(domain, "a split at one time (global_time)")
        if self.validation_from is not None and self.test_from is not None:
            return self.validation_from, self.test_from
        time = np.sort(domain.sequences.time)
        first, second = (int(time[int(share * len(time))]) for share in self.shares)
        return first, second


def split_by_time(domain: Domain, validation_from: int, test_from: int) -> Split:
    """Train targets lie before `validation_from`, validation targets in [`validation_from`,
    `test_from`), test targets at or after `test_from` (Unix seconds).

    Every interaction but a user's first is a target; its history is everything before it, also
    what lies in an earlier part. A user may be in all three parts, in one, or (length 1) in none.
    """
    require_real_times(domain, "a split by time")
    if validation_from > test_from:
        raise SettingError("validation_from must not be after test_from")
    every = every_target(domain, domain.sequences.lengths)
    part = np.searchsorted([validation_from, test_from], _times(every), side="right")
    train, validation, test = (every.take(np.flatnonzero(part == k)) for k in range(3))
    return Split("by_time", train, validation, test)


def split_globally(domain: Domain, settings: TimeSplit) -> Split:
    """`split_by_time` at the cuts of `settings`, then of each user's validation and of each user's
    test targets every, the first or the last, without cold users or items where those are dropped.

    Cold is what the training examples don't hold: a user without one, an item in none of their
    histories and targets. A domain without times is a `MismatchError`, one without a training or
    test target a `DataError`.
    """
    split = split_by_time(domain, *settings.cuts(domain))
    if not len(split.train):
        raise _no_targets(domain, "training", settings)
    known_users = np.zeros(len(domain.sequences), dtype=bool)
    known_users[split.train.user] = True
    known_items = _seen_items(split.train)

    def part(examples: Examples, until: int | None) -> Examples:
        keep = np.ones(len(examples), dtype=bool)
        if until is not None:
            keep &= _times(examples) < until
        if settings.cold_users == "drop":
            keep &= known_users[examples.user]
        if settings.cold_items == "drop":
            keep &= known_items[examples.targets]
        examples = examples.take(np.flatnonzero(keep))
        if settings.targets == "every" or not len(examples):
            return examples
        new = examples.user[1:] != examples.user[:-1]
        ends = [True, *new] if settings.targets == "first" else [*new, True]
        return examples.take(np.flatnonzero(ends))

    test = part(split.test, settings.test_until)
    if not len(test):
        raise _no_targets(domain, "test", settings)
    return Split("global_time", split.train, part(split.validation, None), test)


def _times(examples: Examples) -> NDArray[np.int64]:
    """[n] int64: the time of each target."""
    sequences = examples.domain.sequences
    time: NDArray[np.int64] = sequences.time[sequences.offsets[examples.user] + examples.end]
    return time


def _seen_items(train: Examples) -> NDArray[np.bool_]:
    """[items]: which items occur in the histories and targets of training examples."""
    seen = np.zeros(len(train.domain.items), dtype=bool)
    seen[train.domain.sequences.item[train.seen]] = True
    return seen


def _no_targets(domain: Domain, part: str, settings: TimeSplit) -> DataError:
    """The error for a part without a target."""
    time = domain.sequences.time
    return DataError(
        f"domain '{domain.name}': no {part} targets under the split {settings}; its times are "
        f"{_iso(int(time.min()))} to {_iso(int(time.max()))}"
    )


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise ValueError
    return value


def _iso(seconds: int) -> str:
    when = datetime.fromtimestamp(seconds, UTC)
    day = when.date().isoformat()
    return day if seconds % 86_400 == 0 else when.replace(tzinfo=None).isoformat()
