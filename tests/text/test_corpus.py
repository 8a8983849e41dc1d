"""Catalogue text: every title is read, lists share what they should, held-out titles stay out."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from weft.backbones.tokenizer import train_tokenizer
from weft.data.domain import Catalogue
from weft.errors import WeftError
from weft.text import TextSettings
from weft.text.corpus import Corpus, CorpusSettings, Shelves, held_out
from weft.text.prompt import ListPrompt, PromptSettings, title_tokens


def shop(name: str, count: int, kinds: int) -> Catalogue:
    return Catalogue(
        pl.DataFrame(
            {
                "item_id": [f"{name}{i}" for i in range(count)],
                "title": [f"{name} thing {i}" for i in range(count)],
                "category": [f"kind {i % kinds}" if i % 5 else "" for i in range(count)],
            }
        )
    )


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    shelves = Shelves.of(
        [shop("a", 40, 3), shop("b", 30, 2), shop("a", 40, 3)], ["category", "brand"]
    )
    tokenizer = train_tokenizer(shelves.titles * 3, 330)
    tokens = title_tokens(tokenizer, shelves.titles, TextSettings(tokens=None))
    prompt = ListPrompt(tokenizer, PromptSettings(short=True))
    settings = CorpusSettings(longest=4, dialogues=0.6, listed=0.5, candidates=(3, 5))
    return Corpus(shelves, tokens, prompt, settings, tokenizer.pad_token_id)


def spoken(corpus: Corpus, document: Any) -> list[str]:
    tokenizer = corpus.prompt._words._plain
    text = tokenizer.decode(document.tolist(), skip_special_tokens=False)
    for sign in (
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
        "system\n",
        "user\n",
        "assistant\n",
    ):
        text = text.replace(sign, "\n")
    lines = text.replace("recommend", "").replace("||", "\n").split("\n")
    return [line for line in lines if line.strip()]


def test_titles_of_several_catalogues_count_once(corpus: Corpus) -> None:
    assert len(corpus.shelves.titles) == 70
    assert sorted(len(rows) for rows in corpus.shelves.groups["category"]) == sorted(
        [len(range(40)[k::3]) - len([i for i in range(40)[k::3] if i % 5 == 0]) for k in range(3)]
        + [len(range(30)[k::2]) - len([i for i in range(30)[k::2] if i % 5 == 0]) for k in range(2)]
    )
    assert corpus.shelves.groups["brand"] == []
    with pytest.raises(WeftError, match="hold no titles"):
        Shelves.of([shop("a", 0, 1)], ["category"])


def test_a_pass_reads_every_title_and_lists_share_a_category(corpus: Corpus) -> None:
    said: set[str] = set()
    longest = 0
    for document in corpus.documents(1, 0):
        titles = spoken(corpus, document)
        assert set(titles) <= set(corpus.shelves.titles)
        said |= set(titles)
        longest = max(longest, len(titles))
        if len(titles) <= 4:  # no candidates in it
            rows = [corpus.shelves.titles.index(title) for title in titles]
            together = [set(group.tolist()) for group in corpus.shelves.groups["category"]]
            assert len(rows) == 1 or any(set(rows) <= group for group in together)
    assert said == set(corpus.shelves.titles)
    assert longest > 4  # some dialogues do list candidates


def test_the_seed_and_the_pass_decide_the_text(corpus: Corpus) -> None:
    first = corpus.blocks(32, 40, 5)
    assert first.shape == (40, 32)
    assert np.array_equal(first, corpus.blocks(32, 40, 5))
    assert not np.array_equal(first, corpus.blocks(32, 40, 6))
    assert np.array_equal(corpus.blocks(32, 60, 5)[:40], first)


def test_held_out_titles_are_read_in_validation_alone(corpus: Corpus) -> None:
    out = held_out(corpus.shelves.titles, 0.3, 7)
    assert 5 < out.sum() < 40
    assert np.array_equal(out[::-1], held_out(corpus.shelves.titles[::-1], 0.3, 7))
    names = np.array(corpus.shelves.titles)
    for keep in (out, ~out):
        kept = Corpus(
            corpus.shelves.restrict(keep), corpus.tokens, corpus.prompt, corpus.settings, 0
        )
        said = {title for one in kept.documents(3, 0) for title in spoken(corpus, one)}
        assert said == set(names[keep])
