"""Score, rank, record: the one way from a scorer to a result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol as Role

import numpy as np
import polars as pl
from numpy.typing import NDArray

from weft.artifacts.hashing import hash_arrays
from weft.data.domain import Examples, IntArray
from weft.data.draws import user_keys
from weft.data.splits import LeaveOneOut
from weft.errors import DataError, MismatchError, SettingError
from weft.evaluation.candidates import draw_candidates
from weft.evaluation.protocol import EvaluationSettings, Protocol
from weft.evaluation.ranks import TargetPlaces, target_places
from weft.evaluation.result import Result
from weft.evaluation.result_folder import SCHEMA, hash_users

MOST_SCORES = 50_000_000  # scores held at once: 200 MB of float32
MOST_USERS = 2048  # users scored at once, so that progress shows

Progress = Callable[[int, int], None]
"""Called with the users done and the users in all."""


class Scorer(Role):
    """The part of a recommender that evaluation needs."""

    def score(
        self, histories: Sequence[IntArray], candidates: IntArray | None = None
    ) -> NDArray[np.float32]:
        """[n, c] for `candidates` [n, c], or [n, items] without them; higher is better."""
        ...


def evaluate(
    scorer: Scorer,
    examples: Examples,
    settings: EvaluationSettings,
    *,
    part: str = "test",
    counts: NDArray[np.int64] | None = None,
    progress: Progress | None = None,
) -> Result:
    """Rank every example's target among its candidates and in the whole catalogue.

    With `settings.full` the catalogue is scored once and the candidates' scores are taken
    from there; without it only the candidates are scored. `counts` [items] are the
    popularities to draw by: `train_counts` of the split, by default of leave-one-out.

    Settings that can't be measured are a `SettingError`, examples of nobody and scores that are not
    numbers a `DataError`, scores of another shape a `MismatchError`.

    >>> from weft.data.mall import mall
    >>> from weft.data.splits import leave_one_out
    >>> from weft.evaluation.candidates import CandidateSettings
    >>> class Popular:  # scores every item by how often it is a target in training
    ...     def __init__(self, train):
    ...         self.counts = np.bincount(train.targets, minlength=40).astype(np.float32)
    ...     def score(self, histories, candidates=None):
    ...         rows = np.tile(self.counts, (len(histories), 1))
    ...         return rows if candidates is None else np.take_along_axis(rows, candidates, axis=1)
    >>> split = leave_one_out(mall(users=60, items=40)["toys"])
    >>> settings = EvaluationSettings(candidates=CandidateSettings(drawn=9), at=(5,))
    >>> result = evaluate(Popular(split.train), split.test, settings)
    >>> {name: round(value, 2) for name, value in result.metrics().items()}
    {'ndcg@5': 0.28, 'mrr@5': 0.21, 'hit@5': 0.5,
     'full/ndcg@5': 0.06, 'full/mrr@5': 0.05, 'full/recall@5': 0.11}
    """
    if settings.mask_history == "both":
        raise SettingError("mask_history: both gives two results: evaluate_both")
    masks = (bool(settings.mask_history),)
    return _evaluate(scorer, examples, settings, masks, part, counts, progress)[0]


def evaluate_both(
    scorer: Scorer,
    examples: Examples,
    settings: EvaluationSettings,
    *,
    part: str = "test",
    counts: NDArray[np.int64] | None = None,
    progress: Progress | None = None,
) -> tuple[Result, Result]:
    """As `evaluate`, with the history not masked and masked, out of the same scores."""
    plain, masked = _evaluate(scorer, examples, settings, (False, True), part, counts, progress)
    return plain, masked


def _evaluate(
    scorer: Scorer,
    examples: Examples,
    settings: EvaluationSettings,
    masks: Sequence[bool],
    part: str,
    counts: NDArray[np.int64] | None,
    progress: Progress | None,
) -> list[Result]:
    if settings.candidates is None and not settings.full:
        raise SettingError("evaluate: nothing to rank; set candidates or full")
    examples = chosen_examples(examples, settings)
    candidates = None
    if settings.candidates is not None:
        if settings.candidates.by == "popularity" and counts is None:
            _need_leave_one_out(settings)
        candidates = draw_candidates(examples, settings.candidates, settings.seed, counts)
    among, wholes = _places(scorer, examples, settings, masks, candidates, progress)
    results = []
    for mask, whole in zip(masks, wholes, strict=True):
        frame = _frame(examples, among, whole)
        one = settings.masking(mask)
        results.append(Result(frame, _protocol(examples, one, part, candidates, frame)))
    return results


def _need_leave_one_out(settings: EvaluationSettings) -> None:
    if not isinstance(settings.split, LeaveOneOut):
        raise SettingError(
            f"candidates by popularity need `counts` for the split '{settings.split}': "
            "pass train_counts of its training part"
        )


def chosen_examples(examples: Examples, settings: EvaluationSettings) -> Examples:
    """All examples, or those of the `settings.users` users that the seed draws."""
    if not len(examples):
        raise DataError(f"domain '{examples.domain.name}': no examples to evaluate")
    users = np.unique(examples.user)
    if settings.users is None or settings.users >= len(users):
        return examples
    keys = user_keys(examples.domain.sequences.user_ids.gather(users), settings.seed, "evaluate")
    drawn = users[np.argsort(keys, kind="stable")[: settings.users]]
    return examples.take(np.flatnonzero(np.isin(examples.user, drawn)))


def _places(
    scorer: Scorer,
    examples: Examples,
    settings: EvaluationSettings,
    masks: Sequence[bool],
    candidates: NDArray[np.int32] | None,
    progress: Progress | None,
) -> tuple[TargetPlaces | None, list[TargetPlaces | None]]:
    """Each target's places among the candidates, and in the catalogue for each masking."""
    n, items = len(examples), len(examples.domain.items)
    width = items if settings.full or candidates is None else candidates.shape[1]
    step = max(1, min(MOST_USERS, MOST_SCORES // width))
    among = None if candidates is None else _empty(n)
    wholes = [_empty(n) if settings.full else None for _ in masks]
    for start in range(0, n, step):
        rows = np.arange(start, min(start + step, n))
        part = examples.take(rows)
        histories = part.histories()
        drawn = None if candidates is None else candidates[rows]
        scores = _scores(scorer, part, histories, None if settings.full else drawn, width)
        for mask, whole in zip(masks, wholes, strict=True):
            if whole is not None:
                masked = histories if mask else None
                _put(whole, rows, target_places(scores, part.targets, masked))
        if settings.full and drawn is not None:
            scores = np.take_along_axis(scores, drawn, axis=1)
        if among is not None:
            _put(among, rows, target_places(scores, np.zeros(len(rows), dtype=np.int64)))
        if progress is not None:
            progress(int(rows[-1]) + 1, n)
    return among, wholes


def _empty(n: int) -> TargetPlaces:
    return TargetPlaces(np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64))


def _put(places: TargetPlaces, rows: NDArray[np.int64], part: TargetPlaces) -> None:
    places.above[rows], places.level[rows] = part.above, part.level


def _scores(
    scorer: Scorer,
    examples: Examples,
    histories: list[NDArray[np.int32]],
    candidates: NDArray[np.int32] | None,
    width: int,
) -> NDArray[np.floating]:
    scores = np.asarray(scorer.score(histories, candidates))
    if scores.shape != (len(histories), width):
        raise MismatchError(
            f"domain '{examples.domain.name}': the recommender gave scores of shape "
            f"{scores.shape} where {(len(histories), width)} are needed"
        )
    wrong = np.isnan(scores).any(axis=1)
    if wrong.any():
        user = examples.user_ids()[int(np.argmax(wrong))]
        raise DataError(
            f"domain '{examples.domain.name}': the recommender gave user '{user}' a score that "
            "is not a number (NaN)"
        )
    return scores


def _frame(
    examples: Examples, among: TargetPlaces | None, whole: TargetPlaces | None
) -> pl.DataFrame:
    none = [None] * len(examples)
    columns = {
        "user_id": examples.user_ids(),
        "item_id": examples.domain.items.frame["item_id"].gather(examples.targets),
        "position": examples.end,
        "above_candidates": none if among is None else among.above,
        "level_candidates": none if among is None else among.level,
        "above_full": none if whole is None else whole.above,
        "level_full": none if whole is None else whole.level,
    }
    return pl.DataFrame(columns, schema=SCHEMA).sort("user_id", "position")


def _protocol(
    examples: Examples,
    settings: EvaluationSettings,
    part: str,
    candidates: NDArray[np.int32] | None,
    frame: pl.DataFrame,
) -> Protocol:
    drawn_hash = None
    if candidates is not None:
        order = np.lexsort((examples.end, np.array(examples.user_ids())))
        drawn_hash = hash_arrays({"candidates": candidates[order]})
    return Protocol(
        domain=examples.domain.name,
        domain_hash=examples.domain.hash,
        split=str(settings.split),
        part=part,
        users=len(np.unique(examples.user)),
        targets=len(examples),
        items=len(examples.domain.items),
        users_hash=hash_users(frame),
        candidates=settings.candidates,
        candidates_hash=drawn_hash,
        seed=settings.seed,
        full=settings.full,
        mask_history=bool(settings.mask_history),
        ties=settings.ties,
        at=settings.at,
    )
