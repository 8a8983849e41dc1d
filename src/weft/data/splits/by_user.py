"""A split of users: who is tested has trained nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from weft.data.domain import Domain, Examples
from weft.data.draws import uniform, user_keys
from weft.data.splits.base import Split, SplitSettings, every_target
from weft.errors import SettingError

_THREE = "three numbers are needed, train : validation : test, as in [3, 1, 1]"


class UserSplit(SplitSettings):
    """Train, validation and test are different users."""

    SHORT = "by_user:3,1,1"
    kind: Literal["by_user"] = "by_user"
    ratios: tuple[float, float, float] = Field(
        default=(3, 1, 1), description="train : validation : test"
    )
    targets: Literal["last", "every"] = Field(
        default="last", description="of a training user: the last item, or each but the first"
    )
    seed: int = 0

    @field_validator("ratios", mode="before")
    @classmethod
    def _three(cls, ratios: object) -> object:
        if not isinstance(ratios, list | tuple) or len(ratios) != 3:
            raise ValueError(_THREE)
        return ratios

    @field_validator("ratios")
    @classmethod
    def _positive(cls, ratios: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(ratios) < 0 or ratios[0] <= 0:
            raise ValueError("they must not be negative, and the first not 0")
        return ratios

    @classmethod
    def from_short(cls, text: str) -> Mapping[str, Any]:
        try:
            return {"ratios": [float(ratio) for ratio in text.split(",")]}
        except ValueError:
            raise SettingError(f"ratios: {_THREE}, not '{text}'") from None

    def make(self, domain: Domain) -> Split:
        shares = [ratio / sum(self.ratios) for ratio in self.ratios]
        return split_by_user(domain, (shares[0], shares[1], shares[2]), self.seed, self.targets)

    def empty_parts(self) -> tuple[str, ...]:
        parts = zip(("validation", "test"), self.ratios[1:], strict=True)
        return tuple(name for name, ratio in parts if not ratio)

    def __str__(self) -> str:
        ratios = ":".join(f"{ratio:g}" for ratio in self.ratios)
        return f"by_user {ratios}, {self.targets} targets, seed {self.seed}"


def split_by_user(
    domain: Domain,
    ratios: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    targets: Literal["last", "every"] = "every",
) -> Split:
    """Train, validation and test are different users, drawn by seed and user id.

    A train user gives every target i2 … iL, or with `targets` "last" only iL; a validation or test
    user gives the last item only, so that each counts once. Users of length 1 give no example. The
    shares are expected ones: each user is drawn alone, so that adding users moves none of the
    others. Ratios that are negative or don't sum to 1 are a `SettingError`.
    """
    if len(ratios) != 3 or min(ratios) < 0 or not np.isclose(sum(ratios), 1.0):
        raise SettingError(f"the three ratios must be at least 0 and sum to 1, not {ratios}")
    lengths = domain.sequences.lengths
    draw = uniform(user_keys(domain.sequences.user_ids, seed, "split_by_user"))
    part = np.searchsorted(np.cumsum(ratios)[:2], draw, side="right")  # 0, 1, 2
    first, validation, test = (np.flatnonzero((part == k) & (lengths >= 2)) for k in range(3))
    every = targets == "every"
    return Split(
        "by_user",
        every_target(domain, np.where(part == 0, lengths, 0))
        if every
        else Examples(domain, first, lengths[first] - 1),
        Examples(domain, validation, lengths[validation] - 1),
        Examples(domain, test, lengths[test] - 1),
    )
