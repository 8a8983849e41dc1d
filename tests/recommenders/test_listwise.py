"""The listwise and yes/no recommenders: what they score, draw, refuse, and that batches don't matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from tiny import make_shop
from tiny_lm import save_causal

from weft.adapters import Adapter, LoraSettings, from_attached
from weft.backbones import load_backbone
from weft.data.domain import Catalogue, Domain, Examples
from weft.data.mall import mall
from weft.data.splits import leave_one_out
from weft.errors import WeftError
from weft.evaluation.candidates import CandidateSettings, draw_candidates
from weft.evaluation.evaluate import evaluate
from weft.evaluation.protocol import EvaluationSettings
from weft.recommenders.kinds import make_recommender, new_recommender, recommender_settings
from weft.recommenders.text.listwise import Listwise, ListwiseSettings, shuffled
from weft.recommenders.text.lm.packing import next_logits
from weft.recommenders.text.yes_no import YesNo, YesNoSettings
from weft.text.prompt import PromptSettings

SHORT = PromptSettings(short=True, max_tokens=400)


@pytest.fixture(scope="module", params=["qwen2", "qwen3"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_causal(request.param, tmp_path_factory.mktemp("lm") / request.param)


@pytest.fixture(scope="module")
def domain() -> Domain:
    return mall(users=130, items=60)["home"]


def made(folder: Path, catalogue: Catalogue | None = None, **said: Any) -> Listwise:
    settings = ListwiseSettings(**{"prompt": SHORT, "drawn": 9, **said})
    found = make_recommender(str(folder), settings, catalogue, precision="float32")
    assert isinstance(found, Listwise)
    return found


def asked(domain: Domain, users: int) -> tuple[Examples, Any]:
    test = leave_one_out(domain).test.take(np.arange(users))
    return test, draw_candidates(test, CandidateSettings(drawn=9), 0)


@pytest.mark.parametrize("ranker", ["exact", "beam"])
def test_a_hundred_users_rank_alike_at_any_batch_size(
    folder: Path, domain: Domain, ranker: str
) -> None:
    recommender = made(folder, domain.items, ranker=ranker, listed=ranker == "exact")
    test, candidates = asked(domain, 100)
    histories = test.histories()
    whole = recommender.score(histories, candidates)
    assert len({tuple(row) for row in np.argsort(-whole, axis=1).tolist()}) > 20
    for size in (1, 7, 64):
        parts = [
            recommender.score(histories[i : i + size], candidates[i : i + size])
            for i in range(0, 100, size)
        ]
        assert np.array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("normalise", [False, True])
def test_users_read_together_score_alike(folder: Path, domain: Domain, normalise: bool) -> None:
    test, candidates = asked(domain, 23)
    alone, together = (
        made(folder, domain.items, together=size, normalise=normalise).score(
            test.histories(), candidates
        )
        for size in (1, 7)
    )
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    assert np.array_equal(np.argsort(-together, axis=1), np.argsort(-alone, axis=1))


def test_scores_do_not_hang_on_the_order_of_candidates(folder: Path, domain: Domain) -> None:
    recommender = made(folder, domain.items)
    test, candidates = asked(domain, 5)
    scores = recommender.score(test.histories(), candidates)
    turned = recommender.score(test.histories(), candidates[:, ::-1])
    assert np.array_equal(scores, turned[:, ::-1])


def test_the_target_may_stand_anywhere_in_the_prompt() -> None:
    candidates = np.arange(3000).reshape(300, 10) * 7919 % 100_003
    place = np.argmax(shuffled(candidates) == candidates[:, :1], axis=1)
    counts = np.bincount(place, minlength=10)
    assert counts.min() > 10 and counts.max() < 60  # 30 expected
    assert np.array_equal(np.sort(shuffled(candidates)), np.sort(candidates))


def test_normalised_scores_are_per_token(folder: Path, domain: Domain) -> None:
    plain, per_token = made(folder, domain.items), made(folder, domain.items, normalise=True)
    test, candidates = asked(domain, 4)
    lengths = plain.tokens(domain.items).lengths[candidates] + 1
    np.testing.assert_allclose(
        per_token.score(test.histories(), candidates),
        plain.score(test.histories(), candidates) / lengths,
        rtol=1e-5,
    )


def test_a_whole_catalogue_is_ranked_where_the_prompt_lists_none(
    folder: Path, domain: Domain
) -> None:
    recommender = made(folder, domain.items, listed=False)
    test, candidates = asked(domain, 3)
    whole = recommender.score(test.histories())
    assert whole.shape == (3, len(domain.items))
    some = recommender.score(test.histories(), candidates)
    np.testing.assert_allclose(np.take_along_axis(whole, candidates, 1), some, atol=1e-4)
    ranking = recommender.top_k_of_titles([[domain.items.titles[3]]], 5)
    assert 3 not in ranking.items
    with pytest.raises(WeftError, match="can't rank a whole catalogue"):
        made(folder, domain.items).score(test.histories())
    with pytest.raises(WeftError, match="published ranker needs candidates"):
        made(folder, domain.items, listed=False, ranker="published").score(test.histories())


def test_the_published_ranker_reports_what_is_lost(folder: Path, domain: Domain) -> None:
    recommender = made(folder, domain.items, ranker="published", new_tokens=12)
    test, candidates = asked(domain, 6)
    scores = recommender.score(test.histories(), candidates)
    counts = recommender.tally
    assert counts["answers"] == 6 and counts["prompts"] == 6
    named = (scores > 0).any(axis=1)
    assert counts["answers without a candidate"] == 6 - named.sum()
    assert set(np.unique(scores)) <= {0, 1, 2, 3, 4, 5}


def test_the_published_ranker_reads_a_perfect_answer(
    folder: Path, domain: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommender = made(folder, domain.items, ranker="published")
    test, candidates = asked(domain, 2)
    tokens = recommender.tokens(domain.items)
    said = recommender.prompt.answers(tokens, candidates[:, [4, 0, 4, 7]])
    strange = recommender.prompt.answers(tokens, candidates[:1, :1])
    monkeypatch.setattr(
        "weft.recommenders.text.listwise.greedy",
        lambda *_: [said.of(0)[:-1], np.concatenate([[50, 51], strange.of(0)[:-1]])],
    )
    scores = recommender.score(test.histories(), candidates)
    assert scores[0, [4, 0, 7]].tolist() == [5, 4, 3] and scores[0].sum() == 12
    assert not scores[1].any()
    assert recommender.tally["titles written"] == 5
    assert recommender.tally["titles that are no candidate"] == 1


@pytest.mark.parametrize("answer", ["top1", "top5"])
def test_training_learns_the_answers(folder: Path, domain: Domain, answer: str) -> None:
    settings = ListwiseSettings(prompt=SHORT, drawn=5, answer=answer)
    recommender = new_recommender(
        str(folder), settings, lora=LoraSettings(rank=4, dropout=0.0), precision="float32"
    )
    assert isinstance(recommender, Listwise)
    batch = leave_one_out(domain).train.take(np.arange(4))
    prompts, answers = recommender.training_texts(batch)
    tokens = recommender.tokens(domain.items)
    for row, target in enumerate(batch.targets.tolist()):
        own, title = answers.of(row).tolist(), tokens.of(target).tolist()
        assert own[: len(title)] == title and own[-1] == recommender.prompt.end
        text = recommender.tokenizer.decode(prompts.of(row))
        assert domain.items.titles[target] in text  # the candidates list the truth
    optimizer = torch.optim.Adam(
        [p for p in recommender.model.parameters() if p.requires_grad], 0.02
    )
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = recommender.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


def random_adapter(folder: Path) -> Adapter:
    recommender = new_recommender(
        str(folder), ListwiseSettings(prompt=SHORT), lora=LoraSettings(rank=2), precision="float32"
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for linear in recommender.attached.values():
            linear.b.copy_(torch.randn(linear.b.shape, generator=generator) * 0.3)
    own = recommender.backbone
    backbone = {"name": own.name, "fingerprint": own.fingerprint}
    return from_attached(recommender.attached, {"backbone": backbone})


def test_an_adapter_changes_the_scores(folder: Path, domain: Domain) -> None:
    test, candidates = asked(domain, 3)
    plain = made(folder, domain.items).score(test.histories(), candidates)
    settings = ListwiseSettings(prompt=SHORT)
    woven = make_recommender(
        str(folder), settings, domain.items, adapter=random_adapter(folder), precision="float32"
    )
    assert np.abs(woven.score(test.histories(), candidates) - plain).max() > 0.1


# --- yes or no


def test_yes_no_scores_are_the_log_odds(folder: Path, domain: Domain) -> None:
    recommender = make_recommender(
        str(folder), YesNoSettings(prompt=SHORT), domain.items, precision="float32"
    )
    assert isinstance(recommender, YesNo)
    test, candidates = asked(domain, 3)
    scores = recommender.score(test.histories(), candidates)
    tokens, prompt = recommender.tokens(domain.items), recommender.prompt
    longest = int(tokens.lengths.max())
    for row in range(3):
        start = prompt.prefixes(tokens, [test.histories()[row]], longest, 512).ragged.of(0)
        texts = [np.concatenate([start, prompt.suffix(tokens, i)]) for i in candidates[row]]
        with torch.no_grad():
            logits = next_logits(recommender.language, texts)
        wanted = (logits[:, prompt.yes] - logits[:, prompt.no]).numpy()
        np.testing.assert_allclose(scores[row], wanted, atol=1e-4)
    assert recommender.top_k(test.histories(), 4).items.shape == (3, 4)


def test_yes_no_learns(folder: Path, domain: Domain) -> None:
    recommender = new_recommender(
        str(folder), YesNoSettings(prompt=SHORT), lora=LoraSettings(rank=2), precision="float32"
    )
    loss = recommender.loss(leave_one_out(domain).train.take(np.arange(3)))
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(one.b.grad is not None for one in recommender.attached.values())


# --- both


def test_evaluated_as_any_other(folder: Path, domain: Domain) -> None:
    settings = EvaluationSettings(
        candidates=CandidateSettings(drawn=9), full=False, users=8, at=(1, 5)
    )
    result = evaluate(made(folder, domain.items), leave_one_out(domain).test, settings)
    assert 0 <= result.metrics()["ndcg@5"] <= 1


def test_titles_that_can_not_be_told_apart_or_read(folder: Path) -> None:
    shop = make_shop()
    frame = shop.items.frame.with_columns(
        title=pl.when(pl.int_range(pl.len()) == 1).then(pl.lit("  ")).otherwise("title")
    )
    frame = frame.with_columns(
        title=pl.when(pl.int_range(pl.len()).is_in([2, 3])).then(pl.lit("Twin")).otherwise("title")
    )
    items = Catalogue(frame)
    recommender = made(folder, items)
    with pytest.raises(WeftError, match=f"'{items.item_ids[1]}' has no title"):
        recommender.score([np.array([0])], np.array([[0, 1, 4]]))
    with pytest.raises(WeftError, match="history 1 have the same title 'Twin'"):
        recommender.score([np.array([0])], np.array([[2, 0, 3]]))
    tied = made(folder, items, listed=False).score([np.array([0])], np.array([[2, 0, 3]]))
    assert tied[0, 0] == tied[0, 2] != tied[0, 1]


def test_a_backbone_without_a_template(folder: Path, tmp_path: Path) -> None:
    import shutil

    bare = tmp_path / "bare"
    shutil.copytree(folder, bare)
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(WeftError, match="no chat template"):
        made(bare)
    made(bare, prompt=PromptSettings(chat_template="chatml"))


def test_a_history_longer_than_the_window_is_cut_and_counted(folder: Path, domain: Domain) -> None:
    long = PromptSettings(short=True, max_tokens=5000)
    recommender = made(folder, domain.items, prompt=long)
    _, candidates = asked(domain, 2)
    histories = [np.arange(60) % len(domain.items), np.arange(2)]
    scores = recommender.score(histories, candidates)
    assert np.isfinite(scores).all()
    assert recommender.tally["prompts with a history cut"] == 1
    yes_no = make_recommender(str(folder), YesNoSettings(prompt=long), domain.items)
    assert np.isfinite(yes_no.score(histories, candidates)).all()


def test_settings_of_no_kind() -> None:
    with pytest.raises(WeftError, match="kind: 'list' is not known; there are bi_encoder"):
        recommender_settings({"kind": "list"})
    with pytest.raises(WeftError, match="history_tokens"):
        recommender_settings({"kind": "listwise", "history_tokens": 3})


def test_an_encoder_has_no_causal_head(tiny_bert: Path) -> None:
    with pytest.raises(WeftError):
        load_backbone(str(tiny_bert), head="causal")
