from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import domain, last_items

from weft.data.domain import Catalogue, Domain, Examples, Sequences
from weft.data.splits import leave_one_out
from weft.errors import WeftError
from weft.evaluation.candidates import (
    CandidateSettings,
    draw_candidates,
    leave_one_out_counts,
    train_counts,
)


@given(
    seed=st.integers(0, 2**40),
    world=st.integers(0, 50),
    drawn=st.integers(1, 25),
    by=st.sampled_from(["uniform", "popularity"]),
)
@settings(max_examples=60, deadline=None)
def test_nothing_forbidden_is_ever_drawn(seed: int, world: int, drawn: int, by: str) -> None:
    toys = domain(users=12, items=60, seed=world)
    examples = last_items(toys)
    rows = draw_candidates(examples, CandidateSettings(drawn=drawn, by=by), seed)
    assert rows.shape == (12, drawn + 1)
    assert rows.dtype == np.int32
    assert (rows[:, 0] == examples.targets).all()
    for user, row in enumerate(rows.tolist()):
        own = {toys.items.titles[item] for item in toys.sequences.of(user)}
        titles = [toys.items.titles[item] for item in row[1:]]
        assert not own & set(titles)
        assert len(set(titles)) == drawn
        assert all(title.strip() for title in titles)
        assert not set(row[1:]) & set(toys.sequences.of(user).tolist())


@given(seed=st.integers(0, 2**20), order=st.permutations(list(range(30))))
@settings(max_examples=25, deadline=None)
def test_order_batch_and_company_change_no_draw(seed: int, order: list[int]) -> None:
    examples = last_items(domain())
    whole = draw_candidates(examples, CandidateSettings(drawn=9), seed)
    shuffled = draw_candidates(examples.take(np.array(order)), CandidateSettings(drawn=9), seed)
    assert (shuffled == whole[order]).all()
    alone = draw_candidates(examples.take(np.array(order[:1])), CandidateSettings(drawn=9), seed)
    assert (alone == whole[order[:1]]).all()


def test_the_same_user_in_another_row_gets_the_same_draw() -> None:
    ids = [f"u{row}" for row in range(30)]
    toys = domain(ids=ids)
    spans = [toys.sequences.of(user) for user in reversed(range(30))]
    offsets = np.concatenate([[0], np.cumsum([len(span) for span in spans])])
    item = np.concatenate(spans)
    turned = Sequences(pl.Series(ids[::-1]), offsets, item, np.arange(len(item)))
    other = Domain("toys", toys.items, turned)
    a = draw_candidates(last_items(toys), CandidateSettings(), 3)
    b = draw_candidates(last_items(other), CandidateSettings(), 3)
    assert (a == b[::-1]).all()


def test_another_seed_or_position_is_another_draw() -> None:
    examples = last_items(domain())
    a = draw_candidates(examples, CandidateSettings(), 1)[:, 1:]
    b = draw_candidates(examples, CandidateSettings(), 2)[:, 1:]
    validation = Examples(examples.domain, examples.user, examples.end - 1)
    c = draw_candidates(validation, CandidateSettings(), 1)[:, 1:]
    assert (a != b).any(axis=1).all()
    assert (a != c).any(axis=1).all()


def _flat(users: int, items: int) -> Domain:
    """Users who have seen items 0 and 1 only."""
    frame = pl.DataFrame(
        {"item_id": [str(i) for i in range(items)], "title": [f"t{i}" for i in range(items)]}
    )
    sequences = Sequences(
        pl.Series([f"u{u}" for u in range(users)]),
        np.arange(users + 1) * 2,
        np.tile(np.array([0, 1], dtype=np.int32), users),
        np.zeros(2 * users, dtype=np.int64),
    )
    return Domain("flat", Catalogue(frame), sequences)


def test_uniform_draws_are_uniform() -> None:
    flat = _flat(users=4000, items=22)
    rows = draw_candidates(last_items(flat), CandidateSettings(drawn=5), 0)
    counts = np.bincount(rows[:, 1:].ravel(), minlength=22)[2:]
    assert abs(counts - 1000).max() < 5 * np.sqrt(1000 * 0.75)


@pytest.mark.parametrize("items", [9, 200])  # by random keys for what is left; by rejection
def test_popular_items_are_drawn_in_proportion(items: int) -> None:
    flat = _flat(users=3000, items=items)
    counts = np.zeros(items, dtype=np.int64)
    counts[2], counts[3] = 10 * items, 5 * items
    settings = CandidateSettings(drawn=1 if items > 9 else 7, by="popularity")
    rows = draw_candidates(last_items(flat), settings, 0, counts)
    if items == 9:
        assert (np.sort(rows[:, 1:], axis=1) == np.arange(2, 9)).all()
    else:
        weights = counts + 1.0
        weights[:2] = 0
        share = np.bincount(rows[:, 1], minlength=items) / 3000
        assert abs(share - weights / weights.sum()).max() < 0.04


def test_nearly_everything_seen_is_drawn_from_what_is_left() -> None:
    frame = pl.DataFrame(
        {"item_id": [str(i) for i in range(400)], "title": [f"t{i}" for i in range(400)]}
    )
    item = np.arange(390, dtype=np.int32)
    sequences = Sequences(pl.Series(["a"]), np.array([0, 390]), item, np.zeros(390, dtype=np.int64))
    examples = last_items(Domain("x", Catalogue(frame), sequences))
    for by in ("uniform", "popularity"):
        row = draw_candidates(examples, CandidateSettings(drawn=10, by=by), 0)[0]
        assert sorted(row[1:].tolist()) == list(range(390, 400))
        assert row[0] == 389


def test_a_catalogue_too_small_says_so() -> None:
    with pytest.raises(WeftError, match="domain 'flat' is too small to draw 29"):
        draw_candidates(last_items(_flat(3, 10)), CandidateSettings(), 0)
    with pytest.raises(WeftError, match="leaves 8 for user 'u0'"):
        draw_candidates(last_items(_flat(3, 10)), CandidateSettings(drawn=9), 0)


def test_counts_are_of_training_alone() -> None:
    toys = domain(users=40)
    expected = np.zeros(len(toys.items), dtype=np.int64)
    for user in range(40):
        span = toys.sequences.of(user)
        for item in span[:-2] if len(span) > 3 else []:
            expected[item] += 1
    assert (leave_one_out_counts(toys) == expected).all()
    assert (train_counts(leave_one_out(toys).train) == expected).all()


def test_settings_know_no_other_keys() -> None:
    with pytest.raises(ValueError, match="extra"):
        CandidateSettings.model_validate({"drawn": 29, "how": "uniform"})


def test_the_draw_of_a_seed_stays_what_it_is() -> None:
    """Published numbers hang on these; a change here makes old results incomparable."""
    examples = last_items(domain()).take(np.arange(2))
    uniform = draw_candidates(examples, CandidateSettings(drawn=6), 7)
    assert uniform.tolist() == [[45, 38, 9, 70, 11, 88, 29], [2, 16, 105, 66, 79, 34, 94]]
    popular = draw_candidates(examples, CandidateSettings(drawn=6, by="popularity"), 7)
    by_popularity = leave_one_out_counts(examples.domain)
    again = draw_candidates(examples, CandidateSettings(drawn=6, by="popularity"), 7, by_popularity)
    assert (again == popular).all()
