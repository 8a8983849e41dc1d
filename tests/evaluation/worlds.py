"""Small made-up domains and results for the tests of evaluation and report."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from weft.data.domain import Catalogue, Domain, Examples, Sequences
from weft.evaluation.candidates import CandidateSettings
from weft.evaluation.protocol import Protocol
from weft.evaluation.result import Result
from weft.evaluation.result_folder import RANK_SCHEMA, SCHEMA, hash_users


def domain(
    users: int = 30, items: int = 120, seed: int = 0, *, ids: list[str] | None = None
) -> Domain:
    """Every 7th item repeats a title, every 11th has none."""
    generator = np.random.default_rng(seed)
    titles = [f"Thing {row - 1 if row % 7 == 6 else row}" for row in range(items)]
    titles = [" " if row % 11 == 10 else title for row, title in enumerate(titles)]
    frame = pl.DataFrame({"item_id": [f"i{row}" for row in range(items)], "title": titles})
    lengths = generator.integers(3, 12, users)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    item = (items * generator.random(offsets[-1]) ** 2).astype(np.int32)
    user_ids = pl.Series(ids or [f"u{row}" for row in range(users)], dtype=pl.String)
    sequences = Sequences(user_ids, offsets, item, np.arange(offsets[-1], dtype=np.int64))
    return Domain("toys", Catalogue(frame), sequences)


def last_items(of: Domain) -> Examples:
    return Examples(of, np.arange(len(of.sequences)), of.sequences.lengths - 1)


class Fixed:
    """Scores every item by a table, whatever the history, and remembers how it was asked."""

    def __init__(self, scores: NDArray[np.floating]) -> None:
        self.scores = scores
        self.asked: list[tuple[int, bool]] = []

    def score(self, histories, candidates=None):  # type: ignore[no-untyped-def]
        self.asked.append((len(histories), candidates is not None))
        if candidates is None:
            return np.tile(self.scores, (len(histories), 1))
        return self.scores[candidates]


def result(
    ranks: list[float], full: list[float] | None = None, items: int = 100_000, **changes: object
) -> Result:
    """A result with these ranks for the users u0, u1, …; one in halves is a tie of two."""
    n = len(ranks)
    whole = np.array(full if full is not None else [10.0 * rank for rank in ranks])
    drawn = np.array(ranks, dtype=np.float64)
    frame = pl.DataFrame(
        {
            "user_id": [f"u{row:04d}" for row in range(n)],
            "item_id": ["i"] * n,
            "position": [4] * n,
            "above_candidates": np.floor(drawn - 1).astype(np.int64),
            "level_candidates": (2 * drawn % 2).astype(np.int64),
            "above_full": np.floor(whole - 1).astype(np.int64),
            "level_full": (2 * whole % 2).astype(np.int64),
        },
        schema=SCHEMA,
    )
    protocol = _protocol(frame, items=items)
    return Result(frame, protocol.model_copy(update=changes))


def old_result(ranks: list[float], full: list[float] | None = None, **changes: object) -> Result:
    """The same, as weft measured before it stored ties."""
    frame = pl.DataFrame(
        {
            "user_id": [f"u{row:04d}" for row in range(len(ranks))],
            "item_id": ["i"] * len(ranks),
            "position": [4] * len(ranks),
            "rank_candidates": ranks,
            "rank_full": full if full is not None else [10.0 * rank for rank in ranks],
        },
        schema=RANK_SCHEMA,
    )
    protocol = _protocol(frame, ties="expected rank")
    return Result(frame, protocol.model_copy(update=changes))


def _protocol(frame: pl.DataFrame, **changes: object) -> Protocol:
    protocol = Protocol(
        domain="toys",
        domain_hash="d" * 32,
        split="leave_one_out",
        part="test",
        users=frame.height,
        targets=frame.height,
        users_hash=hash_users(frame),
        candidates=CandidateSettings(),
        candidates_hash="c" * 32,
        seed=7,
        full=True,
        mask_history=False,
        at=(1, 5),
    )
    return protocol.model_copy(update=changes)
