"""Streamed order statistics against a full sort."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.merging.engine.method import Block
from weft.merging.engine.ranks import ranks

specials = [0.0, -0.0, 1e-45, -1e-45, 1.1754942e-38, 1.0, -1.0, 1.0000001, 3.4e38, -3.4e38]
number = st.one_of(
    st.sampled_from(specials),
    st.integers(-3, 3).map(float),
    st.floats(-(2.0**126), 2.0**126, width=32),
)


def found(rows: list[torch.Tensor], cuts: list[int], at: list[int], signed: bool) -> list[tuple]:
    """Ranks of rows [n] that come in pieces."""
    passes = ranks("key", lambda b, known: b.parts, lambda n, known, k: at, signed=signed)
    known: dict = {}
    for one in passes:
        total = None
        for piece in zip(*(row.tensor_split(cuts) for row in rows), strict=True):
            block = Block("x", 0, 1, piece, (1.0,) * len(rows), ("",) * len(rows))
            part = one.look(block, known)
            assert part.dtype == torch.int64
            total = part if total is None else total + part
        known[one.key] = one.settle(total, known, rows[0].numel())
    return known["key"]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_every_rank_is_the_element_that_a_sort_would_put_there(data):
    n = data.draw(st.integers(1, 20))
    values = st.lists(number, min_size=n, max_size=n)
    rows = [torch.tensor(data.draw(values), dtype=torch.float32) for _ in range(2)]
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=2)))
    at = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=3))
    signed = data.draw(st.booleans())
    for row, got in zip(rows, found(rows, cuts, at, signed), strict=True):
        ordered = (row if signed else row.abs()).double()
        assert got == tuple(float(ordered.kthvalue(place + 1).values) for place in at)


def test_ranks_leave_the_values_as_they_are():
    row = torch.tensor([-2.0, 1.0])
    for signed in (True, False):
        found([row], [], [0], signed)
    assert row.tolist() == [-2, 1]


@pytest.mark.parametrize("signed", [True, False])
def test_a_hundred_thousand_elements_have_exact_quantiles(signed):
    row = torch.tensor(np.random.default_rng(0).standard_cauchy(100_000), dtype=torch.float32)
    at = [0, 1, 10_000, 50_000, 99_998, 99_999]
    ordered = (row if signed else row.abs()).sort().values
    assert found([row], [30_001], at, signed) == [tuple(ordered[at].tolist())]
