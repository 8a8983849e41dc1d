"""A split at one time for everybody: what a recipe says of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import numpy as np
from pydantic import ConfigDict, Field, model_validator

from weft.data.domain import Domain
from weft.data.filters import Time, require_real_times
from weft.errors import WeftError
from weft.settings import StrictModel


class TimeSplit(StrictModel):
    """Targets before `validation_from` train, those up to `test_from` validate, the rest test.

    The two times are said, or taken from each domain as `quantiles` of its interactions in order
    of time. Cold users and items are those that training has not seen.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["global_time"] = "global_time"
    quantiles: tuple[float, float] | None = Field(
        default=None, description="shares before validation and before test; (0.8, 0.9) unless said"
    )
    validation_from: Time | None = Field(default=None, description="date or Unix seconds")
    test_from: Time | None = Field(default=None, description="date or Unix seconds")
    test_until: Time | None = Field(default=None, description="first time not tested any more")
    targets: Literal["every", "first", "last"] = Field(
        default="every", description="of a user's interactions within validation, and within test"
    )
    cold_users: Literal["keep", "drop"] = "keep"
    cold_items: Literal["keep", "drop"] = "keep"

    @model_validator(mode="after")
    def _window(self) -> TimeSplit:
        start, stop, end = self.validation_from, self.test_from, self.test_until
        if (start is None) != (stop is None):
            raise ValueError("validation_from and test_from go together")
        if start is not None and self.quantiles is not None:
            raise ValueError("say either quantiles or validation_from and test_from")
        if start is not None and stop is not None and start > stop:
            raise ValueError("validation_from must not be after test_from")
        if stop is not None and end is not None and stop >= end:
            raise ValueError("test_from must be before test_until")
        if self.quantiles is not None and not 0 < self.quantiles[0] <= self.quantiles[1] < 1:
            raise ValueError("quantiles must be two numbers between 0 and 1, the smaller one first")
        return self

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
        """The quantiles, where no times are said."""
        return self.quantiles or (0.8, 0.9)

    def cuts(self, domain: Domain) -> tuple[int, int]:
        """Where validation and test begin in a domain, in Unix seconds.

        A quantile q is the time of the interaction at place ⌊q · n⌋ (from 0) of all n in order
        of time; whatever has that very time lies after the cut. A domain without times is a
        `WeftError`.
        """
        require_real_times(domain, "a split at one time (global_time)")
        if self.validation_from is not None and self.test_from is not None:
            return self.validation_from, self.test_from
        time = np.sort(domain.sequences.time)
        first, second = (int(time[int(share * len(time))]) for share in self.shares)
        return first, second


def parse_split(text: str) -> object:
    """`global_time`, `global_time:0.8,0.9` or `global_time:2014-01-01,2014-03-01` as a block; any
    other text as it is."""
    kind, colon, rest = text.partition(":")
    if kind != "global_time":
        return text
    if not colon:
        return TimeSplit()
    parts = [part.strip() for part in rest.split(",")]
    if len(parts) != 2:
        raise ValueError(
            f"'{text}': say two quantiles or two times, as in global_time:0.8,0.9 or "
            "global_time:2014-01-01,2014-03-01"
        )
    try:
        return {"kind": kind, "quantiles": [_share(part) for part in parts]}
    except ValueError:
        return {"kind": kind, "validation_from": parts[0], "test_from": parts[1]}


def refuse_empty(domain: Domain, part: str, settings: TimeSplit) -> WeftError:
    """What to say of a part without a target."""
    time = domain.sequences.time
    return WeftError(
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
