"""Splits: what is learned from, what is measured, and that the two never meet."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from data_logs import DAY, T0, Row, make_domain, pairs, random_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.data.domain import Examples
from weft.data.splits import leave_one_out, sample_train, split_by_time, split_by_user
from weft.errors import WeftError


def domain_of_lengths(lengths: list[int]):
    return make_domain(
        [(f"u{u}", f"i{n}", T0 + n) for u, length in enumerate(lengths) for n in range(length)]
    )


def test_leave_one_out_of_one_sequence() -> None:
    split = leave_one_out(domain_of_lengths([5]))
    assert split.train.targets.tolist() == [1, 2]  # i2 … i(L-2)
    assert [h.tolist() for h in split.train.histories()] == [[0], [0, 1]]
    assert split.validation.targets.tolist() == [3]
    assert split.test.targets.tolist() == [4]
    assert split.test.histories()[0].tolist() == [0, 1, 2, 3]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_what_a_part_sees_is_its_histories_and_targets(seed: int) -> None:
    domain = make_domain(random_rows(seed, n=40, users=6, items=8))
    for part in (
        leave_one_out(domain).train,
        split_by_time(domain, T0 + 6 * DAY, T0 + 9 * DAY).train,
    ):
        seen: set[tuple[int, int]] = set()
        for user, end in zip(part.user.tolist(), part.end.tolist(), strict=True):
            seen |= {(user, position) for position in range(end + 1)}
        users, positions = domain.sequences.users, domain.sequences.positions
        pairs_seen = zip(users[part.seen].tolist(), positions[part.seen].tolist(), strict=True)
        assert sorted(pairs_seen) == sorted(seen)


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12))
def test_leave_one_out_is_the_naive_one(lengths: list[int]) -> None:
    split = leave_one_out(domain_of_lengths(lengths))
    train, validation, test = set(), set(), set()
    for u, length in enumerate(lengths):
        if length >= 3:
            test.add((f"u{u}", length - 1))
            validation.add((f"u{u}", length - 2))
            train |= {(f"u{u}", end) for end in range(1, length - 2)}
        elif length == 2:
            train.add((f"u{u}", 1))
    assert (pairs(split.train), pairs(split.validation), pairs(split.test)) == (
        train,
        validation,
        test,
    )


@pytest.mark.parametrize(
    ("length", "counts"), [(1, (0, 0, 0)), (2, (1, 0, 0)), (3, (0, 1, 1)), (4, (1, 1, 1))]
)
def test_short_sequences(length: int, counts: tuple[int, int, int]) -> None:
    split = leave_one_out(domain_of_lengths([length]))
    assert (len(split.train), len(split.validation), len(split.test)) == counts


def test_by_user_parts_share_no_user_and_have_the_expected_shares() -> None:
    domain = domain_of_lengths([4, 2, 1] * 700)
    split = split_by_user(domain, (0.6, 0.3, 0.1), seed=3)
    users = [{u for u, _ in pairs(part)} for part in (split.train, split.validation, split.test)]
    assert not (users[0] & users[1] or users[0] & users[2] or users[1] & users[2])
    assert sum(map(len, users)) == 1400  # a user of length 1 has no example
    shares = [len(part) / 1400 for part in users]
    assert shares == pytest.approx([0.6, 0.3, 0.1], abs=0.05)
    lengths = domain.sequences.lengths
    assert (split.test.end == lengths[split.test.user] - 1).all()
    assert len(split.train) == (lengths[np.unique(split.train.user)] - 1).sum()


def test_by_user_does_not_hang_on_the_order_of_users() -> None:
    rows = random_rows(0, 300, 60, 10)
    back = sorted(rows, key=lambda row: row[0])
    one, other = (split_by_user(make_domain(r), seed=5) for r in (rows, back))
    assert pairs(one.test) == pairs(other.test)
    assert pairs(one.train) == pairs(other.train)
    assert pairs(one.test) != pairs(split_by_user(make_domain(rows), seed=6).test)


@pytest.mark.parametrize("ratios", [(0.5, 0.5, 0.5), (1.2, -0.1, -0.1), (1.0,)])
def test_by_user_refuses_wrong_ratios(ratios: tuple[float, ...]) -> None:
    with pytest.raises(WeftError, match="ratios"):
        split_by_user(domain_of_lengths([3]), ratios)  # type: ignore[arg-type]


def test_by_time_sorts_targets_by_their_time() -> None:
    domain = domain_of_lengths([6, 3, 1])
    split = split_by_time(domain, T0 + 2, T0 + 4)
    assert pairs(split.train) == {("u0", 1), ("u1", 1)}
    assert pairs(split.validation) == {("u0", 2), ("u0", 3), ("u1", 2)}
    assert pairs(split.test) == {("u0", 4), ("u0", 5)}
    with pytest.raises(WeftError, match="must not be after"):
        split_by_time(domain, T0 + 4, T0 + 2)
    with pytest.raises(WeftError, match="no times"):
        split_by_time(make_domain([("u", "a", 0), ("u", "b", 1)]), 1, 2)


def drawn_as_list(examples: Examples) -> list[tuple[str, int]]:
    return list(zip(examples.user_ids(), examples.end.tolist(), strict=True))


def test_sample_visits_every_user_before_any_twice_and_repeats_no_example() -> None:
    train = leave_one_out(domain_of_lengths([12, 5, 30, 4, 9])).train
    drawn = drawn_as_list(sample_train(train, 10_000, seed=1))
    assert sorted(drawn) == sorted(pairs(train))
    visits: Counter[str] = Counter()
    sizes = Counter(u for u, _ in pairs(train))
    for user, _ in drawn:
        waiting = min(visits[u] for u in sizes if visits[u] < sizes[u])
        assert visits[user] == waiting
        visits[user] += 1


def test_a_smaller_sample_is_a_prefix_and_another_seed_another_sample() -> None:
    train = leave_one_out(domain_of_lengths([12, 5, 30, 4, 9])).train
    large = drawn_as_list(sample_train(train, 20, seed=1))
    assert drawn_as_list(sample_train(train, 7, seed=1)) == large[:7]
    assert drawn_as_list(sample_train(train, 20, seed=2)) != large


def test_sample_does_not_hang_on_the_order_of_users_or_examples() -> None:
    rows: list[Row] = random_rows(1, 400, 30, 10)
    one = leave_one_out(make_domain(rows)).train
    other = leave_one_out(make_domain(sorted(rows, key=lambda row: row[0]))).train
    other = other.take(np.random.default_rng(0).permutation(len(other)))
    assert drawn_as_list(sample_train(one, 25, 4)) == drawn_as_list(sample_train(other, 25, 4))


def test_sample_positions_are_uniform() -> None:
    train = leave_one_out(domain_of_lengths([12])).train  # 9 examples
    first = Counter(drawn_as_list(sample_train(train, 1, seed))[0][1] for seed in range(900))
    assert set(first) == set(range(1, 10))
    assert min(first.values()) > 60  # 100 expected, deviation 9.4
    assert max(first.values()) < 140


def test_sample_of_nothing() -> None:
    empty = leave_one_out(domain_of_lengths([3])).train
    assert len(sample_train(empty, 5)) == 0
    with pytest.raises(WeftError, match="at least 1"):
        sample_train(empty, 0)
