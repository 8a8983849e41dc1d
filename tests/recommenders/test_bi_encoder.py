"""The bi-encoder: scores, ties, the cache, titles of any kind, and its loss."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import equipped, last_of, make_shop

from weft.adapters import Adapter, LoraSettings, from_attached
from weft.backbones import load_backbone
from weft.data.domain import Catalogue, Examples
from weft.errors import WeftError
from weft.evaluation.ranks import target_places
from weft.recommenders.contract import Recommender
from weft.recommenders.text.bi_encoder import BiEncoder, BiEncoderSettings

SETTINGS = BiEncoderSettings(history_tokens=40)
HISTORIES = [
    np.array(h, dtype=np.int64) for h in ([1, 2, 3], [40], [5, 5, 9, 30, 31, 32], [], [12, 0])
]


def make(
    folder: Path,
    catalogue: Catalogue | None = None,
    settings: BiEncoderSettings = SETTINGS,
    cache: Path | None = None,
    **changes: Any,
) -> BiEncoder:
    backbone = load_backbone(str(folder), precision="float32")
    recommender = BiEncoder(equipped(backbone, **changes), settings, catalogue)
    recommender.cache = cache
    return recommender


def adapter_of(folder: Path, seed: int = 1) -> Adapter:
    recommender = make(folder, lora=LoraSettings(rank=2, alpha=8), seed=seed)
    for linear in recommender.attached.values():
        linear.b.data.fill_(0.05 * seed)
    backbone = {"name": "tiny", "fingerprint": recommender.backbone.fingerprint}
    return from_attached(recommender.attached, {"backbone": backbone})


@pytest.fixture(scope="module")
def recommender(tiny_bert: Path) -> BiEncoder:
    return make(tiny_bert, make_shop(repeat=True).items)


def test_equal_texts_have_equal_bits_and_share_a_rank(recommender: BiEncoder) -> None:
    tied = [1, 9, 20]
    vectors = recommender.item_vectors
    assert vectors.dtype == np.float32 and vectors.shape == (48, 32)
    assert np.array_equal(vectors[tied], vectors[[1, 1, 1]])
    scores = recommender.score(HISTORIES)
    assert (scores[:, tied] == scores[:, [1]]).all()
    candidates = np.tile([9, 3, 20, 7, 1], (len(HISTORIES), 1))
    drawn = recommender.score(HISTORIES, candidates)
    assert (drawn[:, [0, 2, 4]] == drawn[:, [0]]).all()
    ranks = target_places(drawn, np.zeros(len(HISTORIES), dtype=np.int64)).mean_rank
    above = (drawn[:, [1, 3]] > drawn[:, [0]]).sum(axis=1)
    assert ranks.tolist() == (1 + above + 1.0).tolist()  # two level with it: one of them counts


def test_candidates_score_as_in_the_whole_catalogue(tiny_encoder: Path) -> None:
    recommender: Recommender = make(tiny_encoder, make_shop().items)
    candidates = np.random.default_rng(0).integers(0, 48, (len(HISTORIES), 12))
    full = recommender.score(HISTORIES)
    assert full.shape == (len(HISTORIES), 48) and full.dtype == np.float32
    assert abs(full).max() <= 1 + 1e-5
    gathered = np.take_along_axis(full, candidates, axis=1)
    np.testing.assert_allclose(recommender.score(HISTORIES, candidates), gathered, atol=1e-5)
    assert recommender.score([]).shape == (0, 48)


def test_company_and_order_do_not_matter(tiny_encoder: Path) -> None:
    recommender = make(tiny_encoder, make_shop().items)
    together = recommender.score(HISTORIES)
    alone = np.concatenate([recommender.score([history]) for history in HISTORIES])
    np.testing.assert_allclose(alone, together, atol=1e-5)
    order = [4, 2, 0, 3, 1]
    shuffled = recommender.score([HISTORIES[row] for row in order])
    np.testing.assert_allclose(shuffled, together[order], atol=1e-5)


def test_only_the_most_recent_items_count(tiny_bert: Path) -> None:
    recommender = make(tiny_bert, make_shop().items, BiEncoderSettings(history_items=2))
    short, long = recommender.score([np.array([7, 8]), np.array([30, 7, 8])])
    np.testing.assert_allclose(short, long, atol=1e-6)
    assert not np.allclose(short, recommender.score([np.array([8, 7])])[0], atol=1e-3)


def test_titles_rank_as_the_same_items(tiny_bert: Path) -> None:
    catalogue = make_shop().items
    recommender = make(tiny_bert, catalogue)
    titles = [[catalogue.titles[item] for item in history] for history in HISTORIES]
    for mask in (True, False):
        by_item = recommender.top_k(HISTORIES, 7, mask_history=mask)
        by_title = recommender.top_k_of_titles(titles, 7, mask_history=mask)
        assert np.array_equal(by_item.items, by_title.items)
        np.testing.assert_allclose(by_item.scores, by_title.scores, atol=1e-6)
        if mask:
            for history, items in zip(HISTORIES, by_item.items, strict=True):
                assert not set(history.tolist()) & set(items.tolist())


def test_no_history_is_a_history(recommender: BiEncoder) -> None:
    empty = np.array([], dtype=np.int64)
    assert np.isfinite(recommender.score([empty])).all()
    assert recommender.top_k_of_titles([[]], 5).items.shape == (1, 5)
    assert recommender.top_k_of_titles([], 5).items.shape == (0, 5)
    assert recommender.top_k([empty], 100).items.shape == (1, 48)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(history=st.lists(st.text(max_size=60), max_size=4))
def test_hostile_titles_do_not_crash(recommender: BiEncoder, history: list[str]) -> None:
    history = [*history, "[SEP] [PAD] \x00\ud800 </s>", " ", "red mug " * 500]
    ranking = recommender.top_k_of_titles([history, []], 3)
    assert np.isfinite(ranking.scores).all() and ranking.items.shape == (2, 3)


def test_item_vectors_are_cached_by_what_makes_them(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = make_shop().items
    adapter = adapter_of(tiny_bert)
    expected = make(tiny_bert, catalogue, adapter=adapter, cache=tmp_path).item_vectors
    (file,) = tmp_path.iterdir()
    again = make(tiny_bert, catalogue, adapter=adapter, cache=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(again, "encode", lambda inputs: pytest.fail("encoded again"))
        assert np.array_equal(again.item_vectors, expected)
    others: list[tuple[Catalogue, dict[str, Any]]] = [
        (catalogue, {}),
        (catalogue, {"adapter": adapter_of(tiny_bert, seed=2)}),
        (catalogue, {"adapter": adapter, "settings": BiEncoderSettings(history_tokens=41)}),
        (Catalogue(catalogue.frame.reverse()), {"adapter": adapter}),
    ]
    for count, (items, how) in enumerate(others, start=2):
        made = make(tiny_bert, items, cache=tmp_path, **how)
        assert made.item_vectors.shape == expected.shape
        assert len(list(tmp_path.iterdir())) == count
    file.write_bytes(b"broken")
    restored = make(tiny_bert, catalogue, adapter=adapter, cache=tmp_path)
    assert np.array_equal(restored.item_vectors, expected)


def test_vectors_in_training_follow_the_weights_and_stay_off_the_disk(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = LoraSettings(rank=2)
    recommender = make(tiny_bert, make_shop().items, lora=lora, cache=tmp_path)
    optimizer = torch.optim.AdamW([p for p in recommender.model.parameters() if p.requires_grad])
    before = recommender.item_vectors
    recommender.loss(last_of(make_shop())).backward()
    optimizer.step()
    after = recommender.item_vectors
    assert not np.array_equal(before, after) and not list(tmp_path.iterdir())
    calls: list[int] = []
    encode = recommender.encode
    monkeypatch.setattr(recommender, "encode", lambda x: calls.append(len(x)) or encode(x))
    recommender.score(HISTORIES)
    assert calls == [len(HISTORIES)]  # the items were not encoded again


@pytest.mark.parametrize("repeat", [False, True])
def test_loss_is_the_formula(repeat: bool, tiny_bert: Path) -> None:
    """Naively, in float64; equal titles and equal targets are no negatives."""
    shop = make_shop(repeat=repeat)
    recommender = make(tiny_bert, shop.items, SETTINGS.model_copy(update={"temperature": 0.2}))
    examples = last_of(shop)
    with torch.no_grad():
        got = float(recommender.loss(examples))
    empty = [np.array([], dtype=np.int64)] * len(examples)
    assert recommender.score(empty).shape == (len(examples), 48)
    cosines = recommender.score(examples.histories()).astype(np.float64)
    groups, total = shop.items.title_group, 0.0
    for row, target in enumerate(examples.targets):
        negatives = [t for t in examples.targets if groups[t] != groups[target]]
        parts = [math.exp(cosines[row, t] / 0.2) for t in [target, *negatives]]
        total -= math.log(parts[0] / sum(parts))
    assert got == pytest.approx(total / len(examples), rel=1e-4)


def test_a_batch_of_one_has_no_negatives(tiny_bert: Path) -> None:
    one = last_of(make_shop()).take(np.array([3]))
    assert float(make(tiny_bert, lora=LoraSettings(rank=2)).loss(one)) == 0.0


def test_what_cannot_be_is_one_sentence(tiny_bert: Path, other_bert: Path) -> None:
    adapter = adapter_of(tiny_bert)
    with pytest.raises(WeftError, match="without a catalogue"):
        make(tiny_bert).score(HISTORIES)
    with pytest.raises(WeftError, match="belongs to backbone tiny"):
        make(other_bert, adapter=adapter)
    with pytest.raises(WeftError, match=r"history_tokens is 512.*at most 160"):
        make(tiny_bert, settings=BiEncoderSettings(history_tokens=512))


def test_roberta_reads_less_than_it_has_positions(tmp_path: Path) -> None:
    from tiny import save_encoder

    folder = save_encoder("roberta", tmp_path / "roberta")
    with pytest.raises(WeftError, match="at most 159"):
        make(folder, settings=BiEncoderSettings(history_tokens=160))
    recommender = make(
        folder,
        make_shop().items,
        BiEncoderSettings(history_tokens=159, history_items=90),
    )
    assert np.isfinite(recommender.score([np.arange(48).repeat(2)])).all()


def test_an_adapter_changes_the_scores_as_training_saw_them(tiny_encoder: Path) -> None:
    """Attached while training, folded for use: the same recommender."""
    adapter = adapter_of(tiny_encoder)
    folded = make(tiny_encoder, make_shop().items, adapter=adapter)
    attached = make(tiny_encoder, make_shop().items, lora=LoraSettings(rank=2, alpha=8))
    for name, linear in attached.attached.items():
        linear.a.data.copy_(adapter.factors[name].a)
        linear.b.data.copy_(adapter.factors[name].b)
    np.testing.assert_allclose(folded.score(HISTORIES), attached.score(HISTORIES), atol=1e-5)
    zero = replace(adapter, factors={})
    assert not np.allclose(
        folded.score(HISTORIES),
        make(tiny_encoder, make_shop().items, adapter=zero).score(HISTORIES),
    )


def test_training_goes_on_after_scoring(tiny_encoder: Path) -> None:
    """Nothing that a scoring pass leaves in the model may get in the way of gradients."""
    recommender = make(tiny_encoder, make_shop().items, lora=LoraSettings(rank=2))
    examples: Examples = last_of(make_shop())
    for _ in range(2):
        recommender.score(HISTORIES)
        recommender.model.train()
        recommender.loss(examples).backward()


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_pooling_can_be_said(tiny_encoder: Path, pooling: str) -> None:
    """BLaIR's folders say nothing of how its vectors are pooled, and it takes the first token."""
    said = SETTINGS.model_copy(update={"pooling": pooling})
    made = make(tiny_encoder, make_shop().items, said)
    inputs = made.assemble_histories(made.tokens(made.catalogue), [np.array([0, 5])])
    ids = torch.from_numpy(inputs.ids).long()[None]
    with torch.no_grad():
        states = made.model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
    wanted = states[0] if pooling == "cls" else states.mean(0)
    wanted = torch.nn.functional.normalize(wanted, dim=0)
    assert np.allclose(made.encode(inputs)[0], wanted.numpy(), atol=1e-5)
