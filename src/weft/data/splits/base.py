"""What every split is: three disjoint sets of examples, and the settings that make them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from weft.data.domain import Domain, Examples
from weft.errors import SettingError
from weft.settings import StrictModel


@dataclass(frozen=True, eq=False)
class Split:
    """Three disjoint sets of examples of one domain, and the kind of split that they come from."""

    kind: str
    train: Examples
    validation: Examples
    test: Examples


class SplitSettings(StrictModel):
    """One kind of split with its settings. `str()` of it stands in protocols and reports: results
    compare only where it is equal, so the words of settings that exist never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    SHORT: ClassVar[str]
    """The short form for a terminal, for messages."""

    OTHER_NAMES: ClassVar[tuple[str, ...]] = ()
    """Other words for the kind, which are read and never written."""

    @classmethod
    def from_short(cls, text: str) -> Mapping[str, Any]:
        """The settings that the short form gives after the colon: `global_time:0.8,0.9`.

        Raises `SettingError`.
        """
        raise SettingError(f"nothing can follow the colon in '{cls.name()}:{text}'")

    @abstractmethod
    def make(self, domain: Domain) -> Split:
        """The split of a domain. A domain that can't be split so is a `WeftError`."""

    @abstractmethod
    def __str__(self) -> str: ...

    def empty_parts(self) -> tuple[str, ...]:
        """The parts, of validation and test, that have no example in any domain."""
        return ()

    @classmethod
    def name(cls) -> str:
        """The kind's name."""
        return str(cls.model_fields["kind"].default)


def every_target(domain: Domain, until: NDArray[np.int64]) -> Examples:
    """Examples with end = 1 … until[u]-1 for every user, in order of user, then position."""
    counts = np.maximum(until - 1, 0)
    user = np.repeat(np.arange(len(until)), counts)
    starts = np.cumsum(counts) - counts
    return Examples(domain, user, np.arange(len(user)) - np.repeat(starts, counts) + 1)
