"""One cut in time for everybody."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from data_logs import T0, make_domain, pairs, random_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.data.domain import Domain
from weft.data.splits import make_split
from weft.errors import SettingError, WeftError
from weft.evaluation.protocol import EvaluationSettings
from weft.settings import validate


def naive(domain: Domain, start: int, stop: int, said: dict[str, Any]) -> tuple[set, set, set]:
    """The three parts as (user id, position), by plain loops."""
    sequences = domain.sequences
    parts: tuple[set, set, set] = (set(), set(), set())
    rows = [
        (user, place, int(sequences.time[at]), int(sequences.item[at]))
        for user in range(len(sequences))
        for place, at in enumerate(range(sequences.offsets[user], sequences.offsets[user + 1]))
    ]
    targets = [row for row in rows if row[1] > 0]
    train = [row for row in targets if row[2] < start]
    last = {user: max(p for u, p, _, _ in train if u == user) for user, _, _, _ in train}
    seen = {item for user, place, _, item in rows if place <= last.get(user, -1)}
    for part, (low, high) in enumerate([(start, stop), (stop, said.get("test_until", 2**60))], 1):
        kept = [row for row in targets if low <= row[2] < high]
        if said.get("cold_users") == "drop":
            kept = [row for row in kept if row[0] in last]
        if said.get("cold_items") == "drop":
            kept = [row for row in kept if row[3] in seen]
        choose = {"first": min, "last": max}.get(said.get("targets", "every"))
        for user in {row[0] for row in kept}:
            places = [row[1] for row in kept if row[0] == user]
            for place in places if choose is None else [choose(places)]:
                parts[part].add((sequences.user_ids[user], place))
    parts[0].update((sequences.user_ids[user], place) for user, place, _, _ in train)
    return parts


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 1000),
    st.sampled_from(["every", "first", "last"]),
    st.sampled_from(["keep", "drop"]),
    st.sampled_from(["keep", "drop"]),
    st.booleans(),
)
def test_parts_are_those_of_plain_loops(
    seed: int, targets: str, users: str, items: str, until: bool
) -> None:
    domain = make_domain(random_rows(seed, 120, 15, 25))
    time = np.sort(domain.sequences.time)
    start, stop = int(time[60]), int(time[90])
    said: dict[str, Any] = {"targets": targets, "cold_users": users, "cold_items": items}
    if until:
        said["test_until"] = int(time[-3])
    block = {"kind": "global_time", "validation_from": start, "test_from": stop, **said}
    wanted = naive(domain, start, stop, said)
    if start == stop or (until and stop >= said["test_until"]):
        return
    if not wanted[0] or not wanted[2]:
        with pytest.raises(WeftError, match=r"no (training|test) targets"):
            make_split(domain, block)
        return
    split = make_split(domain, block)
    assert (pairs(split.train), pairs(split.validation), pairs(split.test)) == wanted


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000))
def test_nothing_in_training_is_later_than_what_is_tested(seed: int) -> None:
    domain = make_domain(random_rows(seed, 150, 20, 20))
    split = make_split(domain, "global_time")

    def times(part: Any) -> Any:
        return domain.sequences.time[domain.sequences.offsets[part.user] + part.end]

    for part in (split.validation, split.test):
        if len(part):
            assert times(split.train).max() < times(part).min()
    cut = np.sort(domain.sequences.time)[int(0.9 * len(domain.sequences.time))]
    assert (times(split.test) >= cut).all()


def test_a_recipe_and_a_command_say_it_alike() -> None:
    def said(value: Any) -> Any:
        return validate(EvaluationSettings, {"split": value}).split

    block = {"kind": "global_time", "validation_from": "2014-05-13", "test_from": "2014-06-01"}
    assert said("global_time:2014-05-13,2014-06-01") == said(block)
    assert said("global_time:0.7,0.8") == said({"kind": "global_time", "quantiles": [0.7, 0.8]})
    assert said("by_user:8,1,1") == said({"kind": "by_user", "ratios": [8, 1, 1]})
    assert said("by_user") == said({"kind": "by_user"}) == said({})
    assert said("leave_one_out") == said({"kind": "leave_one_out"})
    assert said("by_time:0.7,0.8") == said("global_time:0.7,0.8")  # another word for it
    assert str(said(block)) == (
        "global_time: validation from 2014-05-13, test from 2014-06-01, every target"
    )
    again = EvaluationSettings(split=said(block)).model_dump(mode="json")
    assert EvaluationSettings.model_validate(again).split == said(block)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("global_time:0.8", "split: two shares or two times are needed, as in global_time:0.8"),
        ("sometime", "leave_one_out, by_user and global_time are"),
        ({"kind": "sometime"}, "kind 'sometime' is not known; leave_one_out, by_user and global"),
        ("by_users", "split: kind 'by_users' is not known; .* are; did you mean 'by_user'"),
        ({"by_time": {}}, "'by_time' is a kind: write it as {kind: by_time}, with its settings"),
        (
            3,
            "split: 3 is no split; write leave_one_out, by_user:3,1,1 or global_time:FROM,TEST, or",
        ),
        ("leave_one_out:3", "split: nothing can follow the colon in 'leave_one_out:3'"),
        ("global_time:2014-13-01,2015-01-01", "split: validation_from: '2014-13-01' is no date"),
        ({"kind": "global_time", "test_from": "2014-01-01"}, "go together"),
        ({"kind": "global_time", "quantiles": [0.9, 0.8]}, "between 0 and 1"),
        ("global_time:2014-02-01,2014-01-01", "must not be after"),
        (
            {"kind": "global_time", "quantiles": [0.8]},
            "split: quantiles: two numbers between 0 and",
        ),
        ({"kind": "by_user", "quantiles": [0.8, 0.9]}, "split: quantiles: not known"),
        ({"kind": "by_user", "ratios": [3, 1]}, "split: ratios: three numbers are needed, train :"),
        ("by_user:8,1", "split: ratios: three numbers are needed, train : validation : test, as"),
        ("by_user:a,b,c", "split: ratios: three numbers are needed, train : validation : test, as"),
        ({"kind": "by_user", "ratios": [0, 1, 1]}, "split: ratios: they must not be negative, and"),
        ({"kind": "by_user", "seeds": 1}, "split: seeds: .*; did you mean 'seed'"),
    ],
)
def test_what_cannot_be_is_one_sentence(split: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message) as caught:
        validate(EvaluationSettings, {"split": split})
    assert "\n" not in str(caught.value)
    with pytest.raises(SettingError, match=message.removeprefix("split: ")):
        make_split(make_domain([("u", "i", T0)]), split)


def test_domains_that_cannot_be_cut_are_named() -> None:
    ordered = make_domain([("u", f"i{n}", n) for n in range(9)])
    with pytest.raises(WeftError, match=r"'\w+' has an order index and no times: a split at one"):
        make_split(ordered, "global_time")
    timed = make_domain([("u", f"i{n}", T0 + n) for n in range(9)])
    late = {"kind": "global_time", "validation_from": "2031-01-01", "test_from": "2032-01-01"}
    with pytest.raises(
        WeftError, match=r"no test targets under the split global_time: .* its times"
    ):
        make_split(timed, late)
