from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from worlds import Fixed, domain, last_items, result

from weft.artifacts.atomic import read_json, write_json
from weft.data.domain import Examples
from weft.errors import WeftError
from weft.evaluation import evaluate as module
from weft.evaluation.candidates import CandidateSettings, draw_candidates
from weft.evaluation.evaluate import evaluate
from weft.evaluation.protocol import EvaluationSettings, differences
from weft.evaluation.result import Result

SETTINGS = EvaluationSettings(candidates=CandidateSettings(drawn=9), seed=5)


@pytest.fixture
def examples() -> Examples:
    return last_items(domain())


@pytest.fixture
def scorer() -> Fixed:
    return Fixed(np.random.default_rng(1).integers(0, 40, 120).astype(np.float32))


def test_ranks_agree_with_a_plain_loop(examples: Examples, scorer: Fixed) -> None:
    found = evaluate(scorer, examples, SETTINGS)
    rows = draw_candidates(examples, SETTINGS.candidates, 5)
    frame = found.frame.with_columns(drawn=found.ranks(False), every=found.ranks(True))
    by_user = {row["user_id"]: row for row in frame.iter_rows(named=True)}
    assert found.frame["user_id"].is_sorted()
    for user, row in zip(examples.user_ids(), rows, strict=True):
        own, others = scorer.scores[row[0]], scorer.scores[row[1:]]
        rank = 1 + (others > own).sum() + (others == own).sum() / 2
        whole = 1 + (scorer.scores > own).sum() + ((scorer.scores == own).sum() - 1) / 2
        assert by_user[user]["drawn"] == rank
        assert by_user[user]["above_candidates"] == (others > own).sum()
        assert by_user[user]["level_candidates"] == (others == own).sum()
        assert by_user[user]["every"] == whole
        assert by_user[user]["item_id"] == f"i{row[0]}"
    first = [1 / (1 + (scorer.scores[row[1:]] == scorer.scores[row[0]]).sum())
             * (scorer.scores[row].max() == scorer.scores[row[0]]) for row in rows]  # fmt: skip
    assert found.metrics()["ndcg@1"] == pytest.approx(np.mean(first))
    assert set(found.metrics()) >= {"mrr@3", "hit@10", "full/recall@10", "full/ndcg@5"}


def test_scoring_only_the_candidates_gives_the_same_ranks(
    examples: Examples, scorer: Fixed
) -> None:
    both = evaluate(scorer, examples, SETTINGS)
    assert [with_candidates for _, with_candidates in scorer.asked] == [False]
    scorer.asked.clear()
    only = evaluate(scorer, examples, SETTINGS.model_copy(update={"full": False}))
    assert [with_candidates for _, with_candidates in scorer.asked] == [True]
    for column in ("above_candidates", "level_candidates"):
        assert only.frame[column].equals(both.frame[column])
    assert only.frame["above_full"].null_count() == len(examples)
    assert differences(only.protocol, both.protocol) == ["full"]
    with pytest.raises(WeftError, match="no ranks among the whole catalogue"):
        only.values("full/ndcg@1")


def test_order_and_chunks_change_nothing(
    examples: Examples, scorer: Fixed, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = evaluate(scorer, examples, SETTINGS)
    monkeypatch.setattr(module, "MOST_SCORES", 7 * 120)
    seen: list[tuple[int, int]] = []
    shuffled = examples.take(np.random.default_rng(0).permutation(len(examples)))
    again = evaluate(scorer, shuffled, SETTINGS, progress=lambda *at: seen.append(at))
    assert seen == [(7, 30), (14, 30), (21, 30), (28, 30), (30, 30)]
    assert again.frame.equals(once.frame)
    assert again.protocol == once.protocol


def test_masking_history_never_masks_the_target(examples: Examples) -> None:
    scores = np.arange(120, dtype=np.float32)
    masked = evaluate(Fixed(scores), examples, SETTINGS.model_copy(update={"mask_history": True}))
    by_user = dict(zip(masked.frame["user_id"], masked.ranks(True), strict=True))
    triples = zip(examples.user_ids(), examples.histories(), examples.targets, strict=True)
    for user, history, target in triples:
        left = set(range(120)) - set(history.tolist()) | {int(target)}
        assert by_user[user] == 1 + sum(item > target for item in left)


def test_a_sample_of_users_is_the_same_whatever_the_order(
    examples: Examples, scorer: Fixed
) -> None:
    few = SETTINGS.model_copy(update={"users": 8})
    a = evaluate(scorer, examples, few)
    b = evaluate(scorer, examples.take(np.arange(29, -1, -1)), few)
    assert a.frame.height == a.protocol.users == 8
    assert a.frame.equals(b.frame)


def test_a_user_with_several_targets_counts_once(examples: Examples, scorer: Fixed) -> None:
    twice = Examples(
        examples.domain,
        np.concatenate([examples.user, examples.user[:3]]),
        np.concatenate([examples.end, examples.end[:3] - 1]),
    )
    found = evaluate(scorer, twice, SETTINGS)
    assert (found.protocol.users, found.protocol.targets) == (30, 33)
    above, level = found.places(True).above, found.places(True).level
    value = np.clip((60 - above) / (level + 1), 0, 1)
    frame = found.frame.with_columns(value=value)
    means = frame.select("user_id", "value").group_by("user_id", maintain_order=True).mean()
    assert found.values("full/hit@60").tolist() == pytest.approx(means["value"].to_list())


def test_bad_scores_are_named(examples: Examples) -> None:
    wrong = np.ones(120, dtype=np.float32)
    wrong[4] = np.nan
    with pytest.raises(WeftError, match=r"'toys': the recommender gave user 'u0' a score .*NaN"):
        evaluate(Fixed(wrong), examples, SETTINGS)
    with pytest.raises(WeftError, match=r"scores of shape \(30, 119\) where \(30, 120\)"):
        evaluate(Fixed(wrong[:119]), examples, SETTINGS)


def test_what_cannot_be_measured_is_refused(examples: Examples, scorer: Fixed) -> None:
    with pytest.raises(WeftError, match="nothing to rank"):
        evaluate(scorer, examples, EvaluationSettings(candidates=None, full=False))
    with pytest.raises(WeftError, match="no examples"):
        evaluate(scorer, examples.take(np.arange(0)), SETTINGS)
    popular = EvaluationSettings(
        split="by_user", candidates=CandidateSettings(drawn=9, by="popularity")
    )
    with pytest.raises(WeftError, match="need `counts`"):
        evaluate(scorer, examples, popular)
    evaluate(scorer, examples, popular, counts=np.ones(120, dtype=np.int64))


def test_a_result_survives_the_disk_bit_for_bit(
    examples: Examples, scorer: Fixed, tmp_path: Path
) -> None:
    found = evaluate(scorer, examples, SETTINGS)
    found.save(tmp_path / "a")
    evaluate(scorer, examples.take(np.arange(29, -1, -1)), SETTINGS).save(tmp_path / "b")
    for name in ("ranks.parquet", "protocol.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    loaded = Result.load(tmp_path / "a")
    assert loaded.frame.equals(found.frame)
    assert loaded.protocol == found.protocol
    with pytest.raises(WeftError, match="exists already"):
        found.save(tmp_path / "a")
    found.save(tmp_path / "a", replace=True)


def test_a_broken_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeftError, match="is no result folder"):
        Result.load(tmp_path)
    result([1, 2, 3]).save(tmp_path / "a")
    result([1, 2, 3, 4]).save(tmp_path / "b")
    (tmp_path / "b" / "ranks.parquet").replace(tmp_path / "a" / "ranks.parquet")
    with pytest.raises(WeftError, match=r"has 4 targets, and .* says 3"):
        Result.load(tmp_path / "a")
    protocol = read_json(tmp_path / "a" / "protocol.json")
    write_json(tmp_path / "a" / "protocol.json", {**protocol, "seed": "seven"})
    with pytest.raises(WeftError, match="seed"):
        Result.load(tmp_path / "a")
