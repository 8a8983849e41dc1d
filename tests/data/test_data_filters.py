"""Filters against plain references."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import numpy as np
import pytest
from data_logs import DAY, T0, Row, as_dict, make_domain, random_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from weft.data import filters as f
from weft.data.filters import Filters, apply_filters
from weft.errors import WeftError

ROWS = st.lists(
    st.tuples(
        st.integers(0, 8).map("u{}".format), st.integers(0, 6).map("i{}".format), st.just(T0)
    ),
    min_size=1,
    max_size=60,
)


def naive_core(rows: list[Row], users: int, items: int) -> list[Row]:
    while True:
        per_user, per_item = Counter(r[0] for r in rows), Counter(r[1] for r in rows)
        kept = [r for r in rows if per_user[r[0]] >= users and per_item[r[1]] >= items]
        if len(kept) == len(rows):
            return rows
        rows = kept


@settings(max_examples=80, deadline=None)
@given(rows=ROWS, users=st.integers(0, 5), items=st.integers(0, 5))
def test_k_core_is_the_naive_one(rows: list[Row], users: int, items: int) -> None:
    domain = f.k_core(make_domain(rows), users, items)
    kept = naive_core(rows, users, items)
    assert as_dict(domain) == (as_dict(make_domain(kept)) if kept else {})
    left = {r[1] for r in kept}
    assert set(domain.items.item_ids) == left
    assert [i for i in make_domain(rows).items.item_ids if i in left] == domain.items.item_ids


def test_k_core_can_keep_the_catalogue() -> None:
    domain = make_domain(random_rows(2, 100, 30, 30))
    kept = f.k_core(domain, 4, 3, drop_items=False)
    assert kept.items is domain.items
    assert as_dict(kept) == as_dict(f.k_core(domain, 4, 3))


@pytest.mark.parametrize(
    ("settings_", "items"),
    [({}, 3), ({"unused_items": "keep"}, 4), ({"unused_items": "drop"}, 3)],
)
def test_unused_items_after_a_core(settings_: dict[str, str], items: int) -> None:
    rows = [("u", i, T0) for i in "abc"] + [("v", i, T0) for i in "abcd"]
    domain, _ = apply_filters(
        make_domain(rows), Filters.model_validate({"k_core": {"users": 1, "items": 2}, **settings_})
    )
    assert len(domain.items) == items


def test_unused_items_stay_after_other_steps_unless_dropped() -> None:
    domain = make_domain(random_rows(3, 60, 10, 20))
    few = Filters(sample_users=2)
    assert len(apply_filters(domain, few)[0].items) == len(domain.items)
    less, _ = apply_filters(domain, few.model_copy(update={"unused_items": "drop"}))
    assert set(less.items.item_ids) == {i for seq in as_dict(less).values() for i, _ in seq}


def test_lengths() -> None:
    rows = [("u", f"i{n}", T0 + n) for n in range(5)] + [("v", "i0", T0), ("v", "i1", T0 + 1)]
    domain = make_domain(rows)
    assert list(as_dict(f.keep_long(domain, 3))) == ["u"]
    latest = as_dict(f.keep_latest(domain, 3))
    assert latest == {
        "u": [("i2", T0 + 2), ("i3", T0 + 3), ("i4", T0 + 4)],
        "v": as_dict(domain)["v"],
    }


def test_time_window_is_half_open() -> None:
    domain = make_domain([("u", "a", T0), ("u", "b", T0 + 10), ("u", "c", T0 + 20)])
    assert as_dict(f.keep_window(domain, T0, T0 + 20)) == {"u": [("a", T0), ("b", T0 + 10)]}
    assert as_dict(f.keep_window(domain, T0 + 20, None)) == {"u": [("c", T0 + 20)]}


def test_window_takes_dates() -> None:
    window = Filters.model_validate(
        {"time_from": "2014-05-13", "time_until": "2014-05-14T01:00:00+01:00"}
    )
    assert (window.time_from, window.time_until) == (1_399_939_200, 1_400_025_600)


def test_one_per_day_keeps_one_of_each_user_and_day() -> None:
    rows = random_rows(4, 400, 12, 30)
    domain = make_domain(rows)
    days = {(user, t // DAY) for user, _, t in rows}
    for kept in (f.keep_one_per_day(domain, "first"), f.keep_one_per_day(domain, "random", 1)):
        seen = [(u, t // DAY) for u, seq in as_dict(kept).items() for _, t in seq]
        assert len(seen) == len(set(seen))
        assert set(seen) == days
    firsts = {}
    for user, sequence in as_dict(domain).items():
        for event in sequence:
            firsts.setdefault((user, event[1] // DAY), event)
    kept = as_dict(f.keep_one_per_day(domain, "first"))
    assert {(u, e) for u, seq in kept.items() for e in seq} == {
        (u, e) for (u, _), e in firsts.items()
    }


def shuffled_users(rows: list[Row]) -> list[Row]:
    """The same rows, users in another order, each user's rows in theirs."""
    users = sorted({row[0] for row in rows})
    random.Random(1).shuffle(users)
    return sorted(rows, key=lambda row: users.index(row[0]))


def test_draws_hang_on_seed_and_id_not_on_row_order() -> None:
    rows = random_rows(5, 300, 40, 20)
    one, other = make_domain(rows), make_domain(shuffled_users(rows))
    titles = dict.fromkeys(one.items.item_ids, "")
    other = make_domain(shuffled_users(rows), titles)
    for draw in (
        lambda d, seed: f.sample_users(d, 10, seed),
        lambda d, seed: f.keep_one_per_day(d, "random", seed),
    ):
        assert as_dict(draw(one, 3)) == as_dict(draw(other, 3))
        assert as_dict(draw(one, 3)) != as_dict(draw(one, 4))


def test_user_samples_have_the_size_asked_and_are_nested() -> None:
    domain = make_domain(random_rows(6, 400, 40, 20))
    few, more = (set(as_dict(f.sample_users(domain, n, 7))) for n in (5, 20))
    assert (len(few), len(more)) == (5, 20)
    assert few < more
    assert f.sample_users(domain, 10_000) is domain


def test_random_draws_are_uniform() -> None:
    domain = make_domain([(f"u{n}", "a", T0) for n in range(50)])
    drawn = Counter(u for seed in range(400) for u in as_dict(f.sample_users(domain, 10, seed)))
    assert min(drawn.values()) > 45  # 80 expected, deviation 8
    assert max(drawn.values()) < 115


def test_titled_and_where_drop_items_from_the_catalogue_too() -> None:
    domain = make_domain([("u", "a", T0), ("u", "b", T0 + 1), ("v", "b", T0)], {"a": "A", "b": " "})
    kept = f.keep_titled(domain)
    assert as_dict(kept) == {"u": [("a", T0)]}
    assert kept.items.item_ids == ["a"]
    assert f.keep_where(domain, "title", "A").hash == kept.hash
    with pytest.raises(
        WeftError, match="where names the column 'brand'; its items have item_id, title"
    ):
        f.keep_where(domain, "brand", "A")


def test_the_report_says_what_each_step_removed_in_the_documented_order() -> None:
    domain = make_domain(random_rows(8, 500, 40, 30))
    settings_ = Filters.model_validate(
        {"sample_users": 5, "maximum_length": 4, "minimum_length": 2, "k_core": 4,
         "one_per_day": "first", "time_from": T0 + DAY, "titled": True}
    )  # fmt: skip
    final, removed = apply_filters(domain, settings_)
    words = [step.step.split()[0] for step in removed]
    assert words == ["titled", "time", "one_per_day", "k_core", "minimum_length", "maximum_length", "sample_users"]  # fmt: skip
    assert removed[0].before == f.counts(domain)
    assert removed[-1].after == f.counts(final)
    assert all(a.after == b.before for a, b in itertools.pairwise(removed))
    assert removed[-1].after.users == 5
    assert final.sequences.lengths.max() <= 4


def test_no_filter_changes_nothing() -> None:
    domain = make_domain(random_rows(9, 50, 5, 5))
    assert apply_filters(domain, Filters()) == (domain, ())


def test_an_empty_result_names_the_step() -> None:
    domain = make_domain([("u", "a", T0)])
    with pytest.raises(
        WeftError, match=r"filter 'k_core users ≥ 5, items ≥ 5' leaves nothing of 1 users"
    ):
        apply_filters(domain, Filters.model_validate({"k_core": 5}))


def test_steps_that_need_times_refuse_an_order_index() -> None:
    domain = make_domain([("u", "a", 0), ("u", "b", 1)])
    for step in (Filters(one_per_day="first"), Filters(time_from=1)):
        with pytest.raises(WeftError, match="order index and no times"):
            apply_filters(domain, step)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kcore": 5}, {"k_core": {"user": 5}}, {"minimum_length": 0}, {"one_per_day": "last"},
        {"time_from": "2014-02-30"}, {"time_from": 5, "time_until": 5}, {"k_core": -1},
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Filters.model_validate(wrong)


def test_filters_leave_the_given_domain_alone() -> None:
    domain = make_domain(random_rows(10, 100, 10, 10))
    before, item = domain.hash, domain.sequences.item.copy()
    apply_filters(domain, Filters.model_validate({"k_core": 2, "sample_users": 3}))
    assert np.array_equal(domain.sequences.item, item)
    assert make_domain(random_rows(10, 100, 10, 10)).hash == before
