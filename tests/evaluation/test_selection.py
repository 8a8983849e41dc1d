"""Which of several rows to serve: the cheapest that no other beats."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import old_result, result

from weft.errors import WeftError
from weft.evaluation.compare import compare, holm
from weft.evaluation.result import Result
from weft.evaluation.selection import select_row

METRIC = "ndcg@5"


def row(seed: int, best: int, users: int = 200) -> Result:
    ranks = np.random.default_rng(seed).integers(best, 31, users)
    return result(np.maximum(1, ranks).astype(float).tolist())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-20, 8), min_size=1, max_size=5), st.integers(0, 99))
def test_it_is_the_first_that_no_other_beats_after_correction(best: list[int], seed: int) -> None:
    rows = {f"r{n}": row(seed + n, one) for n, one in enumerate(best)}
    pairs = list(combinations(rows, 2))
    p = holm([compare(rows[a], rows[b], [METRIC])[0].p_t for a, b in pairs])
    beaten = set()
    for (a, b), one in zip(pairs, p, strict=True):
        difference = rows[a].values(METRIC).mean() - rows[b].values(METRIC).mean()
        if one < 0.05:
            beaten.add(b if difference > 0 else a)
    found = select_row(rows, METRIC)
    assert found.row == next(name for name in rows if name not in beaten)
    assert {name for name, by in found.beaten.items() if by} == beaten
    assert set(found.versus) == set(rows) - {found.row}
    assert found.decided == (found.row != "r0" or len(beaten) == len(rows) - 1)


def test_nothing_told_apart_is_the_cheapest_and_undecided() -> None:
    same = row(1, 3)
    found = select_row({"popularity": same, "zero-shot": same, "woven": row(2, 3)}, METRIC)
    assert (found.row, found.decided, found.users) == ("popularity", False, 200)
    assert found.versus["zero-shot"].p_holm == 1.0


def test_a_better_row_that_costs_more_is_taken_only_if_it_is_clearly_better() -> None:
    rows = {"popularity": row(1, 12), "target-only": row(2, -20), "woven": row(3, -21)}
    found = select_row(rows, METRIC)
    assert (found.row, found.decided) == ("target-only", True)
    assert found.beaten["popularity"] == ("target-only", "woven")
    one = found.versus["popularity"]
    (alone,) = compare(rows["target-only"], rows["popularity"], [METRIC])
    assert (one.difference, one.low, one.high) == (alone.difference, alone.low, alone.high)
    against = found.versus["woven"]
    (back,) = compare(rows["target-only"], rows["woven"], [METRIC])
    assert (against.difference, against.low) == pytest.approx((back.difference, back.low))


def test_a_cheap_row_that_beats_everything_is_decided() -> None:
    found = select_row({"popularity": row(1, -40), "woven": row(2, 20)}, METRIC)
    assert (found.row, found.decided) == ("popularity", True)


def test_seeds_are_paired_and_unlike_rows_refused() -> None:
    rows = {"a": row(1, 12), "b": [row(2, -20), row(3, -20)]}
    assert select_row(rows, METRIC).row == "b"
    with pytest.raises(WeftError, match="can't be compared"):
        select_row({"a": row(1, 3), "b": old_result([1.0] * 200)}, METRIC)
    with pytest.raises(WeftError, match="no rows"):
        select_row({}, METRIC)
