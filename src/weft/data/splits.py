"""Splits: which (history, target) pairs a recommender learns from, and is measured on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from weft.data.domain import Domain, Examples
from weft.data.draws import mix, uniform, user_keys
from weft.data.filters import require_real_times
from weft.data.time_split import TimeSplit, parse_split, refuse_empty
from weft.errors import WeftError
from weft.settings import StrictModel


class UserSplit(StrictModel):
    """A split of users, as a recipe says it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["by_user"] = "by_user"
    ratios: tuple[float, float, float] = Field(
        default=(3, 1, 1), description="train : validation : test"
    )
    targets: Literal["last", "every"] = Field(
        default="last", description="of a training user: the last item, or each but the first"
    )
    seed: int = 0

    @model_validator(mode="after")
    def _positive(self) -> UserSplit:
        if min(self.ratios) < 0 or self.ratios[0] <= 0:
            raise ValueError("ratios must not be negative, and the first not 0")
        return self

    def __str__(self) -> str:
        ratios = ":".join(f"{ratio:g}" for ratio in self.ratios)
        return f"by_user {ratios}, {self.targets} targets, seed {self.seed}"


def _known(value: object) -> object:
    if isinstance(value, str):
        value = UserSplit() if value == "by_user" else parse_split(value)
    if isinstance(value, str) and value != "leave_one_out":
        raise ValueError(f"'{value}' is not known; leave_one_out, by_user and global_time are")
    return value


def _kind(value: object) -> str:
    if isinstance(value, str):
        return value
    kind = value.get("kind", "by_user") if isinstance(value, dict) else getattr(value, "kind", "")
    return str(kind)


SplitSettings = Annotated[
    Annotated[Literal["leave_one_out"], Tag("leave_one_out")]
    | Annotated[UserSplit, Tag("by_user")]
    | Annotated[TimeSplit, Tag("global_time")],
    Discriminator(
        _kind,
        custom_error_type="split",
        custom_error_message="kind is not known; by_user and global_time are",
    ),
    BeforeValidator(_known),
]
"""What `evaluate: split` of a recipe may say."""


_SPLITS: TypeAdapter[str | UserSplit | TimeSplit] = TypeAdapter(SplitSettings)


@dataclass(frozen=True, eq=False)
class Split:
    """Three disjoint sets of examples of one domain, and the words that made them."""

    kind: str
    train: Examples
    validation: Examples
    test: Examples


def make_split(domain: Domain, settings: str | UserSplit | TimeSplit | Mapping[str, Any]) -> Split:
    """The split that a recipe's `evaluate: split` says, also as plain JSON."""
    try:
        split = _SPLITS.validate_python(settings)
    except ValidationError as error:
        first = error.errors()[0]
        raise WeftError(f"split {settings}: {first['msg'].removeprefix('Value error, ')}") from None
    if isinstance(split, UserSplit):
        shares = [ratio / sum(split.ratios) for ratio in split.ratios]
        return split_by_user(domain, (shares[0], shares[1], shares[2]), split.seed, split.targets)
    if isinstance(split, TimeSplit):
        return split_globally(domain, split)
    return leave_one_out(domain)


def leave_one_out(domain: Domain) -> Split:
    """Test: each user's last item; validation: the one before; train: all earlier ones.

    For i1 … iL the train targets are i2 … i(L-2), each with all items before it as history.
    A user of length 3 has no train example. A user of length 2 gives its one example to train
    and is not evaluated; a user of length 1 gives none.
    """
    lengths = domain.sequences.lengths
    evaluated = np.flatnonzero(lengths >= 3)
    train = np.where(lengths >= 3, lengths - 2, np.minimum(lengths, 2))
    return Split(
        "leave_one_out",
        _all_targets(domain, train),
        Examples(domain, evaluated, lengths[evaluated] - 2),
        Examples(domain, evaluated, lengths[evaluated] - 1),
    )


def split_by_user(
    domain: Domain,
    ratios: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    targets: Literal["last", "every"] = "every",
) -> Split:
    """Train, validation and test are different users, drawn by seed and user id.

    A train user gives every target i2 … iL, or with `targets` "last" only iL; a validation or test user gives the last item only,
    so that each counts once. Users of length 1 give no example. The shares are expected ones:
    each user is drawn on its own, so that adding users moves none of the others.
    """
    if len(ratios) != 3 or min(ratios) < 0 or not np.isclose(sum(ratios), 1.0):
        raise WeftError(f"the three ratios must be at least 0 and sum to 1, not {ratios}")
    lengths = domain.sequences.lengths
    draw = uniform(user_keys(domain.sequences.user_ids, seed, "split_by_user"))
    part = np.searchsorted(np.cumsum(ratios)[:2], draw, side="right")  # 0, 1, 2
    first, validation, test = (np.flatnonzero((part == k) & (lengths >= 2)) for k in range(3))
    every = targets == "every"
    return Split(
        "by_user",
        _all_targets(domain, np.where(part == 0, lengths, 0))
        if every
        else Examples(domain, first, lengths[first] - 1),
        Examples(domain, validation, lengths[validation] - 1),
        Examples(domain, test, lengths[test] - 1),
    )


def split_by_time(domain: Domain, validation_from: int, test_from: int) -> Split:
    """Train targets lie before `validation_from`, validation targets in [`validation_from`,
    `test_from`), test targets at or after `test_from` (Unix seconds).

    Every interaction but a user's first is a target; its history is everything before it, also
    what lies in an earlier part. A user may be in all three parts, in one, or (length 1) in none.
    """
    require_real_times(domain, "a split by time")
    if validation_from > test_from:
        raise WeftError("validation_from must not be after test_from")
    every = _all_targets(domain, domain.sequences.lengths)
    part = np.searchsorted([validation_from, test_from], _times(every), side="right")
    train, validation, test = (every.take(np.flatnonzero(part == k)) for k in range(3))
    return Split("by_time", train, validation, test)


def split_globally(domain: Domain, settings: TimeSplit) -> Split:
    """`split_by_time` at the cuts of `settings`, then of each user's validation and of each user's
    test targets every, the first or the last, without cold users or items where those are dropped.

    Cold is what the training examples don't hold: a user without one, an item in none of their
    histories and targets. A domain without times, or without a training or test target, is a
    `WeftError`.
    """
    split = split_by_time(domain, *settings.cuts(domain))
    if not len(split.train):
        raise refuse_empty(domain, "training", settings)
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
        raise refuse_empty(domain, "test", settings)
    return Split("global_time", split.train, part(split.validation, None), test)


def sample_train(examples: Examples, n: int, seed: int = 0) -> Examples:
    """Draw `n` examples without repeats: uniform over users, then over that user's examples.

    Each round visits every user that still has an example, in random order, and takes a random
    one of theirs; so no user comes twice before all have come once. If there are no more than
    `n` examples, all of them come, in drawn order. The draw hangs on the seed, the users' ids and
    the positions, not on the order of users; a smaller `n` gives a prefix of a larger one.
    """
    if n < 1:
        raise WeftError(f"the number of examples to draw must be at least 1, not {n}")
    if not len(examples):
        return examples
    present, local = np.unique(examples.user, return_inverse=True)
    ids = examples.domain.sequences.user_ids.gather(present)
    keys = mix(user_keys(ids, seed, "sample_train")[local], examples.end)
    rows = np.lexsort((keys, local))  # each user's examples, shuffled
    sizes = np.bincount(local)
    turn = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    order = np.lexsort((mix(keys[rows], turn), turn))
    return examples.take(rows[order[:n]])


def _times(examples: Examples) -> NDArray[np.int64]:
    """[n] int64: the time of each target."""
    sequences = examples.domain.sequences
    time: NDArray[np.int64] = sequences.time[sequences.offsets[examples.user] + examples.end]
    return time


def _seen_items(train: Examples) -> NDArray[np.bool_]:
    """[items]: which items occur in the histories and targets of training examples."""
    sequences = train.domain.sequences
    last = np.zeros(len(sequences), dtype=np.int64)
    np.maximum.at(last, train.user, train.end + 1)
    seen = np.zeros(len(train.domain.items), dtype=bool)
    seen[sequences.item[sequences.positions < np.repeat(last, sequences.lengths)]] = True
    return seen


def _all_targets(domain: Domain, until: NDArray[np.int64]) -> Examples:
    """Examples with end = 1 … until[u]-1 for every user, in order of user, then position."""
    counts = np.maximum(until - 1, 0)
    user = np.repeat(np.arange(len(until)), counts)
    starts = np.cumsum(counts) - counts
    return Examples(domain, user, np.arange(len(user)) - np.repeat(starts, counts) + 1)
