"""Prompts at the edge of the window, titles that are cut alike, other people's titles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tiny_lm import save_causal

from weft.adapters import LoraSettings
from weft.data.domain import Catalogue, Domain
from weft.data.mall import mall
from weft.data.splits import leave_one_out
from weft.errors import WeftError
from weft.recommenders.contract import RecommenderSettings
from weft.recommenders.kinds import make_recommender, new_recommender
from weft.recommenders.text.listwise import Listwise, ListwiseSettings
from weft.recommenders.text.lm import LanguageModel, greedy
from weft.recommenders.text.yes_no import YesNoSettings
from weft.systems.plan import backbone_hash
from weft.text import TextSettings
from weft.text.prompt import PromptSettings

WIDE = PromptSettings(short=True, max_tokens=5000)  # the backbone's window of 512 is what limits
FREE = ListwiseSettings(prompt=WIDE, listed=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_causal("qwen2", tmp_path_factory.mktemp("lm") / "qwen2")


@pytest.fixture(scope="module")
def domain() -> Domain:
    return mall(users=130, items=60)["home"]


@pytest.mark.parametrize("settings", [FREE, YesNoSettings(prompt=WIDE)])
def test_what_others_have_read_changes_nobodys_ranking(
    folder: Path, domain: Domain, settings: RecommenderSettings
) -> None:
    recommender = make_recommender(str(folder), settings, domain.items, precision="float32")
    own = [domain.items.titles[i] for i in range(25)]
    long = ["long thing " * 36]
    alone = recommender.top_k_of_titles([own], 5)
    beside = recommender.top_k_of_titles([own, long], 5)
    assert np.array_equal(alone.items[0], beside.items[0])
    assert np.array_equal(alone.scores[0], beside.scores[0])


def test_a_title_longer_than_the_window_is_cut_short(folder: Path, domain: Domain) -> None:
    recommender = make_recommender(str(folder), FREE, domain.items, precision="float32")
    assert recommender.top_k_of_titles([["long thing " * 400]], 5).items.shape == (1, 5)
    assert recommender.tally["prompts with a history cut"] == 1


@pytest.mark.parametrize("tokens", [3, 5, 8, 12])
@pytest.mark.parametrize("answer", ["top1", "top5"])
def test_answers_fit_behind_the_longest_histories(
    folder: Path, domain: Domain, tokens: int, answer: Any
) -> None:
    text = TextSettings(tokens=tokens)
    settings = ListwiseSettings(prompt=WIDE, text=text, answer=answer, drawn=9)
    recommender = new_recommender(str(folder), settings, lora=LoraSettings(rank=2))
    assert isinstance(recommender, Listwise)
    batch = leave_one_out(domain).train.take(np.arange(4))
    histories = [np.resize(history, 300) for history in batch.histories()]
    object.__setattr__(batch, "histories", lambda: histories)
    prompts, answers = recommender.training_texts(batch)
    whole = np.diff(prompts.offsets) + np.diff(answers.offsets)
    assert whole.max() <= 512 and whole.min() > 512 - tokens - 2  # as full as titles allow
    assert float(recommender.loss(batch).detach()) > 0


def test_an_answer_that_no_window_holds_names_the_window(folder: Path, domain: Domain) -> None:
    frame = domain.items.frame.with_columns(pl.col("title") + " and more" * 60)
    catalogue = Catalogue(frame)
    settings = ListwiseSettings(prompt=WIDE, ranker="published", listed=False)
    recommender = make_recommender(str(folder), settings, catalogue, precision="float32")
    with pytest.raises(WeftError, match=r"backbone's window leaves -.* beside the answer"):
        recommender.score([np.array([1])], np.arange(10)[None])


def test_titles_that_are_cut_alike_share_their_rank(
    folder: Path, domain: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles = ["Same start of title one", "Same start of title two", *domain.items.titles[2:]]
    catalogue = Catalogue(domain.items.frame.with_columns(pl.Series("title", titles)))
    text = TextSettings(words=4, tokens=None)
    settings = ListwiseSettings(prompt=WIDE, ranker="published", text=text)
    recommender = make_recommender(str(folder), settings, catalogue, precision="float32")
    assert isinstance(recommender, Listwise)
    said = recommender.prompt.answers(recommender.tokens(catalogue), [np.array([1, 5])]).of(0)
    monkeypatch.setattr("weft.recommenders.text.listwise.greedy", lambda *_: [said[:-1]])
    for order in ([0, 1, 5, 7], [1, 7, 0, 5]):
        scores = recommender.score([np.array([9])], np.array([order]))[0]
        assert dict(zip(order, scores.tolist(), strict=True)) == {0: 5, 1: 5, 5: 4, 7: 0}


@pytest.mark.parametrize(
    ("listed", "answer", "said"),
    [
        (True, "top5", "Name the five of them"),
        (True, "top1", "Name the one of them"),
        (False, "top1", "Name what the customer"),
        (False, "top5", "Name, by title, the five"),
    ],
)
def test_a_prompt_asks_for_what_is_answered(
    folder: Path, domain: Domain, listed: bool, answer: Any, said: str
) -> None:
    settings = ListwiseSettings(listed=listed, answer=answer, drawn=9, prompt=PromptSettings())
    text = TextSettings(tokens=4)
    recommender = new_recommender(
        str(folder), settings.model_copy(update={"text": text}), lora=LoraSettings(rank=2)
    )
    assert isinstance(recommender, Listwise)
    settings = recommender.settings
    batch = leave_one_out(domain).train.take(np.arange(1))
    recommender.prompt.settings = PromptSettings(max_tokens=5000)
    prompts, _ = recommender.training_texts(batch)
    assert said in recommender.tokenizer.decode(prompts.of(0))


def test_a_target_without_a_title_is_named(folder: Path, domain: Domain) -> None:
    batch = leave_one_out(domain).train.take(np.arange(3))
    frame = domain.items.frame.with_columns(
        title=pl.when(pl.int_range(pl.len()) == int(batch.targets[1])).then(pl.lit(""))
        .otherwise(pl.col("title"))
    )  # fmt: skip
    bare = Domain(domain.name, Catalogue(frame), domain.sequences)
    batch = leave_one_out(bare).train.take(np.arange(3))
    name = bare.items.item_ids[int(batch.targets[1])]
    for settings in (ListwiseSettings(prompt=WIDE, listed=False, answer="top1"),
                     YesNoSettings(prompt=WIDE)):  # fmt: skip
        recommender = new_recommender(str(folder), settings, lora=LoraSettings(rank=2))
        with pytest.raises(WeftError, match=rf"'{name}' has no title.*titled: true"):
            recommender.loss(batch)


def test_greedy_is_greedy_whatever_the_backbone_asks_for(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    prompts = [np.arange(20, 20 + n) for n in (30, 12, 480)]
    model = AutoModelForCausalLM.from_pretrained(folder)
    plain = greedy(LanguageModel(model), prompts, 2, 60, 0)
    model.generation_config.repetition_penalty = 1.3
    assert [one.tolist() for one in greedy(LanguageModel(model), prompts, 2, 60, 0)] == [
        one.tolist() for one in plain
    ]
    alone = greedy(LanguageModel(model), prompts[:1], 2, 60, 0)
    assert alone[0].tolist() == plain[0].tolist()  # the long prompt beside it takes nothing away
    assert len(plain[2]) <= 512 - 480


def test_a_chat_template_is_what_it_says_not_where_it_lies(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "one.jinja"
    path.write_text("{{ messages[0]['content'] }}")
    assert PromptSettings(chat_template=str(path)).chat_template == path.read_text()
    with pytest.raises(ValueError, match=r"missing\.jinja does not exist"):
        PromptSettings(chat_template="missing.jinja")
    before = backbone_hash(folder)
    template = folder / "chat_template.jinja"
    said = template.read_text()
    template.write_text(said + " ")
    try:
        assert backbone_hash(folder) != before
    finally:
        template.write_text(said)
