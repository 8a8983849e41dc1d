"""How much of what is tested lies before what others were trained on."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.data.domain import Catalogue, Domain, Sequences
from weft.data.splits import Split, make_split
from weft.evaluation.leakage import LastTraining, earlier_share, target_facts

T0 = 1_400_000_000
LOGS = st.lists(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), min_size=3, max_size=6),
    min_size=1,
    max_size=5,
)


def made(log: list[list[tuple[int, int]]], name: str = "a", base: int = T0) -> Domain:
    """A domain of users u0, u1, … with (item, time) in order of time."""
    rows = [sorted(user, key=lambda one: one[1]) for user in log]
    offsets = np.concatenate([[0], np.cumsum([len(user) for user in rows])]).astype(np.int64)
    flat = [one for user in rows for one in user]
    frame = pl.DataFrame({"item_id": list("012345"), "title": [f"t{n}" for n in range(6)]})
    return Domain(
        name,
        Catalogue(frame),
        Sequences(
            pl.Series([f"u{n}" for n in range(len(rows))], dtype=pl.String),
            offsets,
            np.array([item for item, _ in flat], dtype=np.int32),
            np.array([base + time for _, time in flat], dtype=np.int64),
        ),
    )


def training_log(split: Split) -> list[tuple[str, int, int]]:
    """(user, item, time) of all that training sees, one by one."""
    sequences = split.train.domain.sequences
    seen = set()
    for user, end in zip(split.train.user.tolist(), split.train.end.tolist(), strict=True):
        for position in range(end + 1):
            at = int(sequences.offsets[user]) + position
            seen.add((user, position, int(sequences.item[at]), int(sequences.time[at])))
    return [(f"u{user}", item, time) for user, _, item, time in seen]


def naive(split: Split, log: list[tuple[str, int, int]]) -> float:
    sequences = split.test.domain.sequences
    count = 0
    for user, end in zip(split.test.user.tolist(), split.test.end.tolist(), strict=True):
        time = int(sequences.time[sequences.offsets[user] + end])
        count += any(when > time for other, _, when in log if other != f"u{user}")
    return count / len(split.test)


@settings(max_examples=60, deadline=None)
@given(LOGS, LOGS, st.sampled_from(["leave_one_out", {"ratios": [1, 0, 1], "targets": "every"}]))
def test_shares_are_those_of_a_plain_loop(one: list, other: list, kind: object) -> None:
    splits = [make_split(made(log, name), kind) for log, name in ((one, "a"), (other, "b"))]
    if not len(splits[0].test):
        return
    logs = [training_log(split) for split in splits]
    training = [LastTraining.of(split.train) for split in splits]
    assert all(one is not None for one in training)
    assert earlier_share(splits[0].test, training[:1]) == pytest.approx(naive(splits[0], logs[0]))
    both = naive(splits[0], logs[0] + logs[1])
    facts = target_facts(splits[0].test, splits[0].train, training)
    assert facts.earlier_anywhere == pytest.approx(both)
    assert facts.domains == 2
    seen = {item for _, item, _ in logs[0]}
    targets = splits[0].test.targets.tolist()
    assert facts.new_items == pytest.approx(np.mean([item not in seen for item in targets]))
    known = set(splits[0].train.user.tolist())
    assert facts.new_users == pytest.approx(
        np.mean([user not in known for user in splits[0].test.user.tolist()])
    )


def test_leave_one_out_leaks_and_one_cut_for_all_does_not() -> None:
    log = [[(0, 1), (1, 2), (2, 3), (3, 4)], [(4, 10), (1, 11), (2, 12), (5, 13)]]
    apart = make_split(made(log), "leave_one_out")
    facts = target_facts(apart.test, apart.train, [LastTraining.of(apart.train)])
    assert facts.earlier == 0.5  # u0's last is at 4, u1 trains at 11
    together = make_split(made(log), {"kind": "global_time", "quantiles": [0.5, 0.75]})
    facts = target_facts(together.test, together.train, [LastTraining.of(together.train)])
    assert (facts.earlier, facts.earlier_anywhere) == (0.0, 0.0)
    assert facts.new_users == 1.0  # u1 begins after the cut
    assert facts.new_items == 0.5  # of its 2 and 5, training has seen 2


def test_one_user_in_two_domains_is_not_another_user() -> None:
    here = made([[(0, 1), (1, 2), (2, 3), (3, 4)]])
    there = made([[(0, 9), (1, 10), (2, 11), (3, 12)]], "b")
    split, other = make_split(here, "leave_one_out"), make_split(there, "leave_one_out")
    training = [LastTraining.of(split.train), LastTraining.of(other.train)]
    assert target_facts(split.test, split.train, training).earlier_anywhere == 0.0


def test_an_order_index_says_nothing_about_time() -> None:
    split = make_split(made([[(0, 1), (1, 2), (2, 3), (3, 4)]] * 2, base=0), "leave_one_out")
    assert LastTraining.of(split.train) is None
    facts = target_facts(split.test, split.train, [None])
    assert (facts.earlier, facts.earlier_anywhere) == (None, None)
