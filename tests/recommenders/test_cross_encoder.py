"""The cross-encoder: prompts, scores, ties, its head, its loss, and what it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import equipped, last_of, make_shop, save_encoder
from tiny_lm import save_causal

from weft.adapters import Adapter, LoraSettings, from_attached, load_adapter, save_adapter
from weft.backbones import load_backbone
from weft.backbones.blocks import last_block_for_first_token
from weft.data.domain import Catalogue
from weft.errors import WeftError
from weft.evaluation.candidates import CandidateSettings, draw_candidates, train_counts
from weft.recommenders.equipped import PlainBackbone
from weft.recommenders.kinds import make_recommender
from weft.recommenders.text.cross_encoder import (
    CrossEncoder,
    CrossEncoderSettings,
)
from weft.text import TextSettings
from weft.text.pair import PairSettings
from weft.training import TrainSettings, train

SETTINGS = CrossEncoderSettings(prompt=PairSettings(max_tokens=100, history_items=4), drawn=4)
HISTORIES = [np.array(h) for h in ([1, 2, 3], [40], [5, 5, 9, 30, 31, 32], [12, 0])]
CANDIDATES = np.array([[1, 2, 3, 9], [4, 5, 6, 7], [1, 40, 8, 9], [0, 13, 17, 30]])


def make(
    folder: Path,
    catalogue: Catalogue | None = None,
    said: CrossEncoderSettings = SETTINGS,
    **how: Any,
) -> CrossEncoder:
    backbone = equipped(load_backbone(str(folder), precision="float32"), **how)
    made = CrossEncoder(backbone, said, catalogue)
    for shop in (make_shop(), make_shop(96)):
        made.prepare([last_of(shop)])
    return made


def adapter_of(folder: Path, seed: int = 1) -> Adapter:
    lora = LoraSettings(rank=2, targets="query-value")
    made = make(folder, lora=lora, seed=seed)
    for linear in made.attached.values():
        linear.b.data.fill_(0.05)
    backbone = {"name": str(folder), "fingerprint": made.backbone.fingerprint}
    return from_attached(made.attached, {"backbone": backbone}, made.whole_modules())


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder("bert", tmp_path_factory.mktemp("encoders") / "bert")


def test_a_prompt_numbers_the_history_and_ends_with_the_candidate(bert: Path) -> None:
    shop = make_shop()
    made = make(bert)
    tokens = made.tokens(shop.items)
    begin = made.prompt.history(tokens, np.array([1, 9, 20]), 5)
    (row,) = made.prompt.prompts(begin, tokens, np.array([47]))
    read = made.backbone.tokenizer.convert_ids_to_tokens(row.tolist())
    titles = shop.items.titles
    words = "".join(
        word.removeprefix("##") if word.startswith("##") else f" {word}" for word in read
    )
    squeezed = words.replace(" ", "")
    assert squeezed.startswith("[CLS]") and squeezed.endswith("[SEP]")
    order = [squeezed.index(titles[i].replace(" ", "")) for i in (1, 9, 20, 47)]
    assert order == sorted(order)
    assert read.count("[CLS]") == read.count("[SEP]") == 1


def test_long_histories_lose_their_oldest_and_candidates_nothing(bert: Path) -> None:
    shop = make_shop()
    said = replace_prompt(max_tokens=40, history_items=15)
    made = make(bert, shop.items, said)
    tokens = made.tokens(shop.items)
    longest = int(tokens.lengths.max())
    long = np.arange(30)
    begin = made.prompt.history(tokens, long, longest)
    rows = made.prompt.prompts(begin, tokens, np.arange(48))
    assert max(map(len, rows)) <= 40
    newest = tokens.of(29).tolist()
    assert (
        newest == [i for i in begin.tolist() if i in newest][-len(newest) :] or newest[0] in begin
    )
    assert all(row.tolist()[-1 - len(tokens.of(i)) : -1] == tokens.of(i).tolist() for i, row in
               enumerate(rows))  # fmt: skip
    short = make(bert, shop.items, replace_prompt(max_tokens=16))
    with pytest.raises(WeftError, match=r"raise recommender.prompt.max_tokens"):
        short.prompt.history(tokens, long, 12)


def replace_prompt(**prompt: Any) -> CrossEncoderSettings:
    return SETTINGS.model_copy(update={"prompt": PairSettings(**prompt)})


def test_more_tokens_than_the_backbone_reads_is_refused(bert: Path) -> None:
    with pytest.raises(
        WeftError, match=r"max_tokens is 512, and the backbone .* reads at most 160"
    ):
        make(bert, said=CrossEncoderSettings())


@pytest.mark.parametrize("kind", ["bert", "roberta", "deberta", "modernbert", "qwen2"])
def test_company_and_order_do_not_matter(kind: str, tmp_path: Path) -> None:
    save: Any = save_causal if kind == "qwen2" else save_encoder
    made = make(save(kind, tmp_path / kind), make_shop().items)
    together = made.score(HISTORIES, CANDIDATES)
    alone = np.concatenate(
        [made.score([h], CANDIDATES[row : row + 1]) for row, h in enumerate(HISTORIES)]
    )
    np.testing.assert_allclose(alone, together, atol=1e-5)
    shuffled = made.score(HISTORIES[::-1], CANDIDATES[::-1, ::-1])
    np.testing.assert_allclose(shuffled[::-1, ::-1], together, atol=1e-5)
    full = made.score(HISTORIES)
    assert full.shape == (4, 48) and full.dtype == np.float32
    np.testing.assert_allclose(np.take_along_axis(full, CANDIDATES, 1), together, atol=1e-5)
    assert together.std() > 1e-4


def test_equal_texts_have_equal_bits(bert: Path) -> None:
    made = make(bert, make_shop(repeat=True).items)
    scores = made.score(HISTORIES)
    assert (scores[:, [1, 9, 20]] == scores[:, [1]]).all()
    drawn = made.score(HISTORIES, np.tile([9, 3, 20, 7, 1], (4, 1)))
    assert (drawn[:, [0, 2, 4]] == drawn[:, [0]]).all()


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize("attention", ["weft_short", "eager", "sdpa"])  # masks of either kind
def test_the_short_last_block_gives_the_same_numbers(
    kind: str, attention: str, tmp_path: Path
) -> None:
    folder = save_encoder(kind, tmp_path / kind)
    made, model = make(folder), load_backbone(str(folder), precision="float32").model
    made.model.set_attn_implementation(attention)  # type: ignore[operator]
    rows = made.training_rows(last_of(make_shop()).take(np.arange(3)))
    ids, mask = made.inputs(rows, np.arange(len(rows)))
    with torch.no_grad():
        short = made.model(input_ids=ids, attention_mask=mask).last_hidden_state
        whole = model(input_ids=ids, attention_mask=mask).last_hidden_state
    assert short.shape[1] == 1
    torch.testing.assert_close(short[:, 0], whole[:, 0], atol=1e-6, rtol=0)


def test_other_blocks_stay_as_they_are(tmp_path: Path) -> None:
    model = load_backbone(str(save_encoder("deberta", tmp_path / "d")), precision="float32").model
    assert not last_block_for_first_token(model)


def test_a_model_without_a_list_of_blocks_stays_as_it_is(tmp_path: Path) -> None:
    from transformers import AlbertConfig, AlbertModel

    config = AlbertConfig(
        vocab_size=90,
        hidden_size=32,
        embedding_size=16,
        num_attention_heads=4,
        intermediate_size=48,
    )
    assert not last_block_for_first_token(AlbertModel(config))


def test_a_token_in_front_of_a_causal_text_is_not_pooled(tmp_path: Path) -> None:
    """It sees nothing, so it would give all candidates one score."""
    from tokenizers import processors
    from transformers import AutoTokenizer

    folder = save_causal("llama", tmp_path / "llama")
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", start)]
    )
    tokenizer.save_pretrained(folder)
    made = make(folder, make_shop().items)
    assert made.prompt.prompts(np.array([start], np.int32), made.tokens(make_shop().items), [0])
    assert not made.prompt.framed
    assert made.score(HISTORIES, CANDIDATES).std(axis=1).min() > 1e-4


def test_popularity_must_be_known_before_training(bert: Path) -> None:
    made = CrossEncoder(PlainBackbone(load_backbone(str(bert), precision="float32")), SETTINGS)
    with pytest.raises(WeftError, match=r"domain 'shop' .* call prepare\(\[split\.train\]\) first"):
        made.loss(last_of(make_shop()))


def test_a_causal_model_is_pooled_at_its_last_token(tmp_path: Path) -> None:
    made = make(save_causal("qwen2", tmp_path / "qwen2"), make_shop().items)
    rows = made.training_rows(last_of(make_shop()).take(np.arange(2)))
    ids, mask = made.inputs(rows, np.arange(len(rows)))
    with torch.no_grad():
        states = made.states(ids, mask)
        for row in range(len(rows)):
            alone = torch.from_numpy(rows.of(row).astype(np.int64))[None]
            last = made.model(input_ids=alone).last_hidden_state[0, -1]
            torch.testing.assert_close(states[row], last, atol=1e-5, rtol=0)


def test_the_head_is_gelu_of_dense_then_a_weighted_sum(bert: Path) -> None:
    made = make(bert)
    states = torch.randn(5, 32)
    dense, scorer = made.model.pooler.dense, made.model.scorer  # type: ignore[union-attr]
    pooled = torch.nn.functional.gelu(states @ dense.weight.T + dense.bias)  # type: ignore[union-attr, operator]
    expected = pooled @ scorer.weight[0] + scorer.bias  # type: ignore[index, operator]
    torch.testing.assert_close(made.head_scores(states), expected)


def test_an_adapter_brings_its_head(bert: Path, tmp_path: Path) -> None:
    shop = make_shop()
    adapter = adapter_of(bert)
    save_adapter(adapter, tmp_path / "adapter")
    read = load_adapter(tmp_path / "adapter")
    assert sorted(read.saved) == [
        "pooler.dense.bias", "pooler.dense.weight", "scorer.bias", "scorer.weight",
    ]  # fmt: skip
    first = make(bert, shop.items, adapter=adapter).score(HISTORIES, CANDIDATES)
    again = make(bert, shop.items, adapter=read).score(HISTORIES, CANDIDATES)
    assert np.array_equal(first, again)
    other = adapter_of(bert, seed=2)
    changed = replace(adapter, saved=other.saved)
    assert (
        abs(make(bert, shop.items, adapter=changed).score(HISTORIES, CANDIDATES) - first).max()
        > 1e-3
    )
    with pytest.raises(WeftError, match="no pooler and scorer"):
        make(bert, shop.items, adapter=replace(adapter, saved={}))


def test_peft_loads_the_adapter_and_gives_the_same_states(bert: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModel

    adapter = adapter_of(bert)
    save_adapter(adapter, tmp_path / "adapter")
    made = make(bert, adapter=adapter)
    rows = made.training_rows(last_of(make_shop()).take(np.arange(2)))
    ids, mask = made.inputs(rows, np.arange(len(rows)))
    model = PeftModel.from_pretrained(AutoModel.from_pretrained(bert), tmp_path / "adapter").eval()
    with torch.no_grad():
        theirs = model(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
        torch.testing.assert_close(made.states(ids, mask), theirs, atol=1e-5, rtol=0)


def test_in_bfloat16_the_head_stays_exact(bert: Path) -> None:
    made = make_recommender(
        str(bert), SETTINGS, make_shop().items, adapter=adapter_of(bert), precision="bfloat16"
    )
    dtypes = {n.split(".")[0]: p.dtype for n, p in made.model.named_parameters()}
    assert dtypes["scorer"] == dtypes["pooler"] == torch.float32
    assert dtypes["encoder"] == torch.bfloat16


def test_the_loss_is_cross_entropy_over_the_target_and_what_is_drawn(bert: Path) -> None:
    shop = make_shop()
    examples = last_of(shop).take(np.arange(5))
    made = make(bert, shop.items)
    made.prepare([last_of(shop)])
    drawn = draw_candidates(
        examples, CandidateSettings(drawn=4, by="popularity"), 0, train_counts(last_of(shop))
    )
    scores = torch.from_numpy(made.score(examples.histories(), drawn))
    expected = -torch.log_softmax(scores, dim=1)[:, 0].mean()
    made.model.eval()
    assert abs(made.loss(examples).item() - expected.item()) < 1e-5


def test_it_learns_a_shop_in_which_colours_stay(bert: Path) -> None:
    shop = make_shop(96)
    made = make(bert, shop.items, lora=LoraSettings(rank=8, targets="query-value", dropout=0.0))
    examples = last_of(shop)
    before = made.loss(examples).item()
    how = TrainSettings(batch=8, epochs=12, learning_rate=1e-2)
    train(made, [examples], how, seed=1)
    assert made.loss(examples).item() < 0.75 * before


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(history=st.lists(st.text(max_size=40), max_size=5))
def test_hostile_titles_do_not_crash(bert: Path, history: list[str]) -> None:
    made = make(bert, make_shop().items)
    history = [*history, "[SEP] Candidate: [CLS] \x00\ud800", " ", "red mug " * 300]
    ranking = made.top_k_of_titles([history, []], 3)
    assert np.isfinite(ranking.scores).all() and ranking.items.shape == (2, 3)


def test_titles_rank_as_the_same_items(bert: Path) -> None:
    shop = make_shop()
    made = make(bert, shop.items)
    titles = [[shop.items.titles[i] for i in history] for history in HISTORIES]
    by_item, by_title = made.top_k(HISTORIES, 5), made.top_k_of_titles(titles, 5)
    assert np.array_equal(by_item.items, by_title.items)
    for history, items in zip(HISTORIES, by_item.items, strict=True):
        assert not set(history.tolist()) & set(items.tolist())


def test_words_and_tokens_of_titles_are_cut(bert: Path) -> None:
    shop = make_shop()
    short = SETTINGS.model_copy(update={"text": TextSettings(words=1, tokens=32)})
    made = make(bert, shop.items, short)
    scores = made.score(HISTORIES)
    assert all((scores[:, 8 * c : 8 * c + 8] == scores[:, [8 * c]]).all() for c in range(6))
