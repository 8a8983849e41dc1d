from __future__ import annotations

import numpy as np
from worlds import domain, last_items

from weft.data.splits import leave_one_out
from weft.evaluation.candidates import CandidateSettings, train_counts
from weft.evaluation.evaluate import evaluate
from weft.evaluation.protocol import EvaluationSettings
from weft.recommenders.contract import Recommender
from weft.recommenders.sequential.popularity import Popularity


def test_scores_are_training_counts_and_equal_titles_tie() -> None:
    toys = domain()
    train = leave_one_out(toys).train
    floor: Recommender = Popularity.of(train)
    scores = floor.score([np.array([1])])[0]
    assert scores.dtype == np.float32
    counts = train_counts(train)
    for item, group in enumerate(toys.items.title_group):
        assert scores[item] == counts[toys.items.title_group == group].sum()
    candidates = np.array([[3, 6, 5]])
    assert (floor.score([np.array([1])], candidates) == scores[candidates]).all()
    settings = EvaluationSettings(candidates=CandidateSettings(drawn=9))
    assert 0 < evaluate(floor, last_items(toys), settings).metrics()["ndcg@10"] < 1


def test_top_k_is_sorted_and_leaves_the_history_out() -> None:
    toys = domain()
    floor = Popularity.of(leave_one_out(toys).train)
    history = floor.top_k([np.array([], dtype=np.int64)], 3).items[0][:2]
    masked = floor.top_k([history], 5)
    assert not set(history.tolist()) & set(masked.items[0].tolist())
    assert (np.diff(masked.scores[0]) <= 0).all()
    assert set(history.tolist()) < set(
        floor.top_k([history], 5, mask_history=False).items[0].tolist()
    )
    everything = floor.top_k([history], 500)
    assert sorted(everything.items[0].tolist()) == list(range(120))
    assert everything.items[0][-2:].tolist() == sorted(history.tolist())
    assert np.isneginf(everything.scores[0]).sum() == 2
