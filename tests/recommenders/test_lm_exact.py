"""Continuations in one pass equal the plain way: one forward pass for each candidate's whole text."""

from __future__ import annotations

import copy
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiny_lm import ARCHITECTURES, causal_model

from weft.errors import WeftError
from weft.recommenders.text.lm import LanguageModel, PrefixTree, constrained_beam, greedy
from weft.recommenders.text.lm.tree import blocks

END = 7
Ids = NDArray[np.int64]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def pair(request: pytest.FixtureRequest) -> tuple[LanguageModel, Any]:
    """The model as weft reads it, and the same weights as transformers does by itself."""
    model = causal_model(request.param)
    plain = copy.deepcopy(model)
    plain.set_attn_implementation("eager")
    return LanguageModel(model), plain


def plain_way(
    model: Any, prompt: Ids, titles: list[Ids], side: Literal["alone", "left", "right"]
) -> NDArray[np.float64]:
    """[C]: sums of log-probabilities out of ordinary forward passes, alone or in a padded batch."""
    rows = [np.concatenate([prompt, title, [END]]) for title in titles]
    batches = [[row] for row in rows] if side == "alone" else [rows]
    out: list[float] = []
    for batch in batches:
        width = max(map(len, batch))
        ids = torch.zeros(len(batch), width, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for n, row in enumerate(batch):
            there = slice(width - len(row), width) if side == "left" else slice(0, len(row))
            ids[n, there], mask[n, there] = torch.from_numpy(row), 1
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
        known = torch.log_softmax(logits.double(), dim=-1)
        for n, row in enumerate(batch):
            first = width - len(row) if side == "left" else 0
            at = range(first + len(prompt), first + len(row))
            out.append(sum(float(known[n, i - 1, ids[n, i]]) for i in at))
    return np.array(out)


def some_titles(random: np.random.Generator, count: int) -> list[Ids]:
    """Short sequences of few ids, so that many begin alike and some are equal."""
    return [random.integers(8, 11, random.integers(1, 9)) for _ in range(count)]


@pytest.mark.parametrize("side", ["alone", "left", "right"])
def test_equal_to_one_forward_pass_per_candidate(pair: Any, side: Any) -> None:
    language, plain = pair
    random = np.random.default_rng(3)
    prompt, titles = random.integers(0, 400, 50), some_titles(random, 30)
    found = language.continuations(prompt, titles, END)
    wanted = plain_way(plain, prompt, titles, side)
    assert np.std(wanted) > 1  # candidates do differ
    np.testing.assert_allclose(found.total, wanted, atol=1e-4)
    assert found.tokens.tolist() == [len(title) + 1 for title in titles]


def test_blocks_change_nothing(pair: Any) -> None:
    language, _ = pair
    random = np.random.default_rng(4)
    prompt, titles = random.integers(0, 400, 40), [random.integers(8, 400, 6) for _ in range(80)]
    whole = language.continuations(prompt, titles, END).total
    few = LanguageModel(language.model, memory=1 << 20)
    assert few._most_nodes(40) < 480 / 4  # several blocks, and logits in chunks
    np.testing.assert_allclose(few.continuations(prompt, titles, END).total, whole, atol=1e-5)


@pytest.mark.parametrize("memory", [2 << 30, 3 << 20])
def test_several_prompts_in_one_pass(pair: Any, memory: int) -> None:
    language, plain = pair
    random = np.random.default_rng(11)
    prompts = [random.integers(0, 400, n) for n in (31, 2, 50, 17, 9)]
    titles = [some_titles(random, n) for n in (7, 30, 1, 12, 12)]
    bounded = LanguageModel(language.model, memory=memory)
    assert bounded._fit(prompts, [PrefixTree.of(one) for one in titles]) == (memory > 3 << 20)
    found = bounded.continuations_together(prompts, titles, END)
    for prompt, own, one in zip(prompts, titles, found, strict=True):
        np.testing.assert_allclose(one.total, plain_way(plain, prompt, own, "alone"), atol=1e-4)
        assert one.tokens.tolist() == [len(title) + 1 for title in own]


def test_several_prompts_stay_within_the_window(pair: Any) -> None:
    language, _ = pair
    with pytest.raises(WeftError, match="window is 512"):
        language.continuations_together([[1] * 9, [1] * 511], [[[2, 3]], [[2, 3]]], END)


def test_a_prompt_can_be_asked_again(pair: Any) -> None:
    language, _ = pair
    random = np.random.default_rng(5)
    prompt, titles = random.integers(0, 400, 20), some_titles(random, 12)
    first = language.continuations(prompt, titles, END).total
    language.continuations(prompt[:5], titles[:3], END)
    assert np.array_equal(language.continuations(prompt, titles, END).total, first)


def test_equal_candidates_have_equal_bits(pair: Any) -> None:
    language, _ = pair
    random = np.random.default_rng(6)
    titles = some_titles(random, 5)
    total = language.continuations(random.integers(0, 400, 9), titles + titles, END).total
    assert np.array_equal(total[:5], total[5:])


def test_last_words_after_a_suffix(pair: Any) -> None:
    language, plain = pair
    random = np.random.default_rng(7)
    prompt, suffixes = random.integers(0, 400, 15), some_titles(random, 6)
    found = language.final_logits(prompt, suffixes, [30, 40])
    for row, suffix in enumerate(suffixes):
        ids = torch.from_numpy(np.concatenate([prompt, suffix]))[None]
        with torch.no_grad():
            known = torch.log_softmax(plain(input_ids=ids).logits[0, -1].double(), dim=-1)
        np.testing.assert_allclose(found[row], known[[30, 40]].numpy(), atol=1e-4)


# --- the constrained beam


def test_a_wide_beam_is_the_exact_ranker(pair: Any) -> None:
    language, _ = pair
    random = np.random.default_rng(8)
    prompt, titles = random.integers(0, 400, 25), some_titles(random, 15)
    exact = language.continuations(prompt, titles, END).total
    np.testing.assert_allclose(
        constrained_beam(language, prompt, titles, END, 15), exact, atol=1e-4
    )


@pytest.mark.parametrize("width", [1, 2, 4])
def test_a_narrow_beam_names_few_and_scores_them_exactly(pair: Any, width: int) -> None:
    language, _ = pair
    random = np.random.default_rng(9)
    prompt = random.integers(0, 400, 25)
    titles = [random.integers(8, 14, random.integers(1, 6)) for _ in range(25)]
    found = constrained_beam(language, prompt, titles, END, width)
    named = {tuple(titles[i]) for i in np.flatnonzero(np.isfinite(found))}
    assert 1 <= len(named) <= width
    exact = language.continuations(prompt, titles, END).total
    there = np.isfinite(found)
    np.testing.assert_allclose(found[there], exact[there], atol=1e-4)


# --- greedy decoding


def test_greedy_writes_the_likeliest_tokens_whatever_the_batch(pair: Any) -> None:
    language, plain = pair
    random = np.random.default_rng(10)
    prompts = [random.integers(0, 400, n) for n in (30, 5, 17)]
    written = greedy(language, prompts, END, 6, 0)
    for prompt, found in zip(prompts, written, strict=True):
        ids = prompt
        for step in range(6):
            with torch.no_grad():
                best = int(plain(input_ids=torch.from_numpy(ids)[None]).logits[0, -1].argmax())
            if best == END:
                assert len(found) == step
                break
            assert found[step] == best
            ids = np.append(ids, best)
    # and the model is as it was: packed attention is back
    assert language.continuations(prompts[0], [np.array([9])], END).total.shape == (1,)


# --- the tree


@st.composite
def sequences(draw: st.DrawFn) -> list[list[int]]:
    one = st.lists(st.integers(0, 3), min_size=1, max_size=7)
    return draw(st.lists(one, min_size=1, max_size=20))


@given(sequences())
def test_a_tree_has_each_beginning_once(rows: list[list[int]]) -> None:
    tree = PrefixTree.of([np.array(row) for row in rows])
    beginnings = {tuple(row[:n]) for row in rows for n in range(1, len(row) + 1)}
    assert len(tree) == len(beginnings)

    def words(node: int) -> list[int]:
        return [] if node < 0 else [*words(tree.parent[node]), int(tree.token[node])]

    assert {tuple(words(node)) for node in range(len(tree))} == beginnings
    for row, path, leaf in zip(rows, tree.path, tree.leaf, strict=True):
        assert tree.token[path[: len(row)]].tolist() == row
        assert (path[len(row) :] == -1).all() and path[len(row) - 1] == leaf
        assert words(leaf) == row
    for node in range(len(tree)):
        seen = tree.sees[1][tree.sees[0] == node].tolist()
        assert sorted(tree.token[seen].tolist()) == sorted(words(node))
        assert tree.depth[node] == len(seen) - 1 and tree.parent[node] < node


@given(sequences(), st.integers(7, 30))
def test_blocks_hold_every_row_once_and_fit(rows: list[list[int]], most: int) -> None:
    arrays = [np.array(row) for row in rows]
    parts = list(blocks(arrays, most))
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(rows)))
    for part in parts:
        assert len(PrefixTree.of([arrays[i] for i in part])) <= most


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_any_tree_scores_as_the_plain_way(seed: int) -> None:
    random = np.random.default_rng(seed)
    language, plain = _qwen()
    prompt, titles = random.integers(0, 400, random.integers(1, 20)), some_titles(random, 8)
    found = language.continuations(prompt, titles, END).total
    np.testing.assert_allclose(found, plain_way(plain, prompt, titles, "alone"), atol=1e-4)


_KEPT: list[Any] = []


def _qwen() -> tuple[LanguageModel, Any]:
    if not _KEPT:
        model = causal_model("qwen2")
        plain = copy.deepcopy(model)
        plain.set_attn_implementation("eager")
        _KEPT.extend([LanguageModel(model), plain])
    return _KEPT[0], _KEPT[1]


# --- bad input


def test_an_empty_candidate_is_named(pair: Any) -> None:
    with pytest.raises(WeftError, match="candidate 2 has no tokens"):
        pair[0].continuations(np.array([1, 2]), [np.array([3]), np.array([], dtype=int)], END)
    with pytest.raises(WeftError, match="no candidates"):
        pair[0].continuations(np.array([1, 2]), [], END)


def test_a_bound_too_small_for_one_title_says_so(pair: Any) -> None:
    few = LanguageModel(pair[0].model, memory=40_000)
    with pytest.raises(WeftError, match=r"title of 60 tokens .* raise recommender\.memory"):
        few.continuations(np.arange(50), [np.arange(60)], END)


def test_a_window_too_short_says_so(pair: Any) -> None:
    with pytest.raises(WeftError, match=r"515 tokens, and the backbone's window is 512"):
        pair[0].continuations(np.zeros(512, dtype=int), [np.arange(3)], END)


def test_what_can_not_be_read_exactly_is_refused() -> None:
    model = causal_model("qwen2")
    model.config.layer_types = ["full_attention", "sliding_attention", "full_attention"]
    with pytest.raises(WeftError, match="sliding_attention"):
        LanguageModel(model)
    model = causal_model("qwen2")
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(WeftError, match="caps its logits"):
        LanguageModel(model)
    with pytest.raises(WeftError, match="no output head"):
        LanguageModel(causal_model("llama").model)
