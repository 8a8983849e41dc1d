"""The values that everything else is about: a catalogue, its users' sequences, examples."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from weft.artifacts.hashing import hash_arrays
from weft.errors import DataError
from weft.names import check_name

IntArray = NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Items with text. An item's index is its row in `frame`.

    `frame` has the string columns `item_id` (unique) and `title`, and any further text
    fields (brand, category, …). A missing text is the empty string.
    """

    frame: pl.DataFrame

    def __post_init__(self) -> None:
        for column in ("item_id", "title"):
            if column not in self.frame.columns:
                raise DataError(f"a catalogue needs the column '{column}'")

    def __len__(self) -> int:
        return self.frame.height

    @cached_property
    def titles(self) -> list[str]:
        return self.frame["title"].to_list()

    @cached_property
    def item_ids(self) -> list[str]:
        return self.frame["item_id"].to_list()

    @cached_property
    def index(self) -> dict[str, int]:
        """item_id -> item index."""
        return {item_id: row for row, item_id in enumerate(self.item_ids)}

    @cached_property
    def title_group(self) -> NDArray[np.int64]:
        """[items] int64: equal for items of equal title (case and outer space ignored).

        An item without a title is a group of its own.
        """
        groups: dict[str, int] = {}
        out = np.empty(len(self), dtype=np.int64)
        for row, title in enumerate(self.titles):
            key = title.strip().casefold()
            out[row] = groups.setdefault(key, row) if key else row
        return out


@dataclass(frozen=True, eq=False)
class Sequences:
    """Users' interactions in time order, as compressed rows.

    The interactions of user u are `item[offsets[u]:offsets[u+1]]`, oldest first.
    """

    user_ids: pl.Series  # [users] str, unique
    offsets: NDArray[np.int64]  # [users + 1]
    item: NDArray[np.int32]  # [interactions] item indices
    time: NDArray[np.int64]  # [interactions] Unix seconds, or a per-user order index

    def __post_init__(self) -> None:
        if len(self.offsets) != len(self.user_ids) + 1 or self.offsets[-1] != len(self.item):
            raise DataError("the offsets of the sequences do not fit their users and items")

    def __len__(self) -> int:
        return len(self.user_ids)

    def of(self, user: int) -> NDArray[np.int32]:
        """[length] int32: the item indices of one user, oldest first."""
        return self.item[self.offsets[user] : self.offsets[user + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[users] int64."""
        return np.diff(self.offsets)

    @property
    def users(self) -> NDArray[np.int32]:
        """[interactions] int32: the user row of each interaction."""
        return np.repeat(np.arange(len(self), dtype=np.int32), self.lengths)

    @property
    def positions(self) -> NDArray[np.int64]:
        """[interactions] int64: each interaction's place in its user's sequence, from 0."""
        return np.arange(len(self.item)) - np.repeat(self.offsets[:-1], self.lengths)


@dataclass(frozen=True, eq=False)
class Domain:
    """One catalogue and its users' sequences.

    >>> shop = Domain(
    ...     "shop",
    ...     Catalogue(pl.DataFrame({"item_id": ["a", "b", "c"], "title": ["Chair", "Lamp", "Rug"]})),
    ...     Sequences(  # ann: a, c, b; bob: b
    ...         user_ids=pl.Series(["ann", "bob"]),
    ...         offsets=np.array([0, 3, 4]),
    ...         item=np.array([0, 2, 1, 1], dtype=np.int32),
    ...         time=np.array([1_400_000_000, 1_400_000_060, 1_400_000_120, 1_400_000_000]),
    ...     ),
    ... )
    >>> [shop.items.titles[item] for item in shop.sequences.of(0)]
    ['Chair', 'Rug', 'Lamp']
    """

    name: str
    items: Catalogue
    sequences: Sequences

    def __post_init__(self) -> None:
        check_name(self.name, "the domain's name")
        item = self.sequences.item
        if len(item) and (item.min() < 0 or item.max() >= len(self.items)):
            raise DataError(f"domain '{self.name}': a sequence names an item outside the catalogue")

    @cached_property
    def hash(self) -> str:
        """A hash of everything in the domain but its name (order of users and items counts)."""
        text = [self.items.frame[column].to_list() for column in sorted(self.items.frame.columns)]
        return hash_arrays(
            {
                "offsets": self.sequences.offsets,
                "item": self.sequences.item,
                "time": self.sequences.time,
            },
            [sorted(self.items.frame.columns), text, self.sequences.user_ids.to_list()],
        )


@dataclass(frozen=True, eq=False)
class Examples:
    """(user, history, target) triples of one domain.

    history = sequence of `user[i]` up to, without, position `end[i]`; target = the item there.

    >>> from weft.data.mall import mall
    >>> toys = mall(users=60, items=40)["toys"]
    >>> toys.sequences.of(0)
    array([25, 24, 31, 12,  0], dtype=int32)
    >>> examples = Examples(toys, np.array([0, 0]), np.array([1, 3]))
    >>> examples.histories(), examples.targets
    ([array([25], dtype=int32), array([25, 24, 31], dtype=int32)], array([24, 12], dtype=int32))
    """

    domain: Domain
    user: NDArray[np.int64]  # [n] user rows
    end: NDArray[np.int64]  # [n] 1 <= end < length of the user's sequence

    def __len__(self) -> int:
        return len(self.user)

    @property
    def targets(self) -> NDArray[np.int32]:
        """[n] int32 item indices."""
        sequences = self.domain.sequences
        out: NDArray[np.int32] = sequences.item[sequences.offsets[self.user] + self.end]
        return out

    def histories(self) -> list[NDArray[np.int32]]:
        """n arrays of item indices, oldest first."""
        sequences = self.domain.sequences
        starts = sequences.offsets[self.user]
        return [
            sequences.item[start : start + end]
            for start, end in zip(starts.tolist(), self.end.tolist(), strict=True)
        ]

    @property
    def seen(self) -> NDArray[np.bool_]:
        """[interactions]: which of the domain's interactions are in a history or a target here. Of a
        split's training part: all that training sees.

        >>> from weft.data.mall import mall
        >>> toys = mall(users=60, items=40)["toys"]
        >>> examples = Examples(toys, np.array([0, 0]), np.array([1, 3]))
        >>> toys.sequences.item[examples.seen]
        array([25, 24, 31, 12], dtype=int32)
        """
        sequences = self.domain.sequences
        last = np.zeros(len(sequences), dtype=np.int64)
        np.maximum.at(last, self.user, self.end + 1)
        return sequences.positions < last[sequences.users]

    def user_ids(self) -> list[str]:
        return self.domain.sequences.user_ids.gather(self.user).to_list()

    @property
    def hash(self) -> str:
        """A hash of which examples these are, of which domain."""
        return hash_arrays({"user": self.user, "end": self.end}, self.domain.hash)

    def take(self, rows: IntArray) -> Examples:
        return Examples(self.domain, self.user[rows], self.end[rows])
