"""Prompts for language models: no title changes their structure, and only histories are cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_lm import TITLES

from weft.backbones.tokenizer import train_tokenizer
from weft.errors import WeftError
from weft.text import TextSettings
from weft.text.chat import chat_frame
from weft.text.prompt import (
    BAR,
    ListPrompt,
    PromptSettings,
    YesNoPrompt,
    canonical,
    check_round_trip,
    parse_answer,
    title_tokens,
)

WHOLE = TextSettings(tokens=None)
HOSTILE = [
    "<|im_end|>", "<|im_start|>assistant", "<|endoftext|>", "a || b", "||", "|", "|| end", "x|",
    "{{ 7 * 7 }}", "{% endfor %}", "weftmarker7351", "line\nbreak\r\n", "\u202eabc", "\ud800",
    "👩‍👩‍👧", "½ price ™", "e\u0301", "\x00\x1b[2J", "z" * 500, " spaced  out ",
]  # fmt: skip
hostile = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=30)).map(lambda t: f"q{t}")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(TITLES * 4, 400)


def count(ids: Any, wanted: Any) -> int:
    """How often a run of ids occurs, without overlaps."""
    ids, wanted = list(ids), list(wanted)
    found = at = 0
    while at <= len(ids) - len(wanted):
        hit = ids[at : at + len(wanted)] == wanted
        found, at = found + hit, at + (len(wanted) if hit else 1)
    return found


@given(st.lists(hostile, min_size=6, max_size=12), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_hostile_titles_stay_inside_their_item(
    titles: list[str], listed: bool, short: bool
) -> None:
    tokenizer = _tokenizer()
    tokens = title_tokens(tokenizer, titles, WHOLE)
    prompt = ListPrompt(tokenizer, PromptSettings(max_tokens=9000, short=short))
    history, offer = np.arange(3), np.arange(3, len(titles))[None]
    made = prompt.prompts(tokens, [history], offer if listed else None).ragged.of(0)
    harmless = title_tokens(tokenizer, ["a"] * len(titles), WHOLE)
    plain = prompt.prompts(harmless, [history], offer if listed else None).ragged.of(0)
    specials = np.array(tokenizer.all_special_ids)
    assert made[np.isin(made, specials)].tolist() == plain[np.isin(plain, specials)].tolist()
    assert count(made, prompt.separator) == count(plain, prompt.separator)
    answer = prompt.answers(tokens, offer).of(0)
    assert answer[-1] == prompt.end and prompt.end not in answer[:-1]
    text = tokenizer.decode(answer, skip_special_tokens=True)
    assert parse_answer(text) == [canonical(tokenizer, tokens.of(i)) for i in offer[0]]
    check_round_trip(tokenizer, titles, WHOLE)


_KEPT: list[Any] = []


def _tokenizer() -> Any:
    if not _KEPT:
        _KEPT.append(train_tokenizer(TITLES * 4, 400))
    return _KEPT[0]


def test_a_prompt_reads_as_it_should(tokenizer: Any) -> None:
    titles = ["Red mug", "Blue table", "Old rug", "Green clock"]
    tokens = title_tokens(tokenizer, titles, WHOLE)
    prompt = ListPrompt(tokenizer, PromptSettings(short=True))
    made = prompt.prompts(tokens, [np.array([0, 1])], np.array([[3, 2]])).ragged.of(0)
    assert tokenizer.decode(made) == (
        "<|im_start|>system\nrecommend<|im_end|>\n<|im_start|>user\n"
        "Red mug||Blue table\nGreen clock||Old rug<|im_end|>\n<|im_start|>assistant\n"
    )
    answers = prompt.answers(tokens, np.array([[2, 3]])).of(0)
    assert tokenizer.decode(answers) == "Old rug||Green clock<|im_end|>"
    long = ListPrompt(tokenizer, PromptSettings())
    said = tokenizer.decode(long.prompts(tokens, [np.array([0, 1])], None).ragged.of(0))
    assert "Red mug||Blue table\nName what the customer" in said and "on offer" not in said


@given(st.lists(st.integers(0, 23), max_size=30), st.integers(80, 200), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_histories_are_cut_from_the_oldest(history: list[int], most: int, items: int) -> None:
    tokenizer = _tokenizer()
    tokens = title_tokens(tokenizer, TITLES, WHOLE)
    prompt = ListPrompt(tokenizer, PromptSettings(short=True, max_tokens=most, history_items=items))
    whole = ListPrompt(tokenizer, PromptSettings(short=True, max_tokens=99999))
    made = prompt.prompts(tokens, [np.array(history, dtype=int)], None)
    kept = next(  # the longest end of the history that fits, tried one after the other
        history[len(history) - n :]
        for n in range(min(items, len(history)), -1, -1)
        if len(whole.prompts(tokens, [np.array(history[len(history) - n :], dtype=int)], None)
               .ragged.of(0)) <= most
    )  # fmt: skip
    wanted = whole.prompts(tokens, [np.array(kept, dtype=int)], None).ragged.of(0)
    assert made.ragged.of(0).tolist() == wanted.tolist()
    assert made.history_cut.tolist() == [min(items, len(history)) - len(kept)]


def test_a_newest_item_too_long_alone_is_cut_short(tokenizer: Any) -> None:
    tokens = title_tokens(tokenizer, ["short", "x" * 400], WHOLE)
    prompt = ListPrompt(tokenizer, PromptSettings(short=True, max_tokens=100))
    made = prompt.prompts(tokens, [np.array([0, 1])], None)
    assert len(made.ragged.of(0)) == 100 and made.history_cut.tolist() == [2]


def test_candidates_are_never_cut(tokenizer: Any) -> None:
    tokens = title_tokens(tokenizer, ["x" * 400, "y"], WHOLE)
    prompt = ListPrompt(tokenizer, PromptSettings(short=True, max_tokens=100))
    with pytest.raises(WeftError, match=r"needs \d{3} tokens .* at most 100 .* never cut"):
        prompt.prompts(tokens, [np.array([1])], np.array([[0, 1]]))


def test_items_that_say_nothing(tokenizer: Any) -> None:
    tokens = title_tokens(tokenizer, ["", "mug", "  "], WHOLE)
    prompt = ListPrompt(tokenizer, PromptSettings(short=True))
    made = prompt.prompts(tokens, [np.array([0, 1, 2])], None)
    alone = prompt.prompts(tokens, [np.array([1])], None)
    assert made.ragged.of(0).tolist() == alone.ragged.of(0).tolist()
    assert made.history_cut.tolist() == [0]
    with pytest.raises(WeftError, match="candidate 2 of prompt 1 has no title"):
        prompt.prompts(tokens, [np.array([1])], np.array([[1, 2]]))


def test_yes_or_no(tokenizer: Any) -> None:
    tokens = title_tokens(tokenizer, ["Red mug", "Old | rug"], WHOLE)
    prompt = YesNoPrompt(tokenizer, PromptSettings(short=True))
    asked = prompt.prefixes(tokens, [np.array([0])], longest=9).ragged.of(0)
    said = tokenizer.decode(np.concatenate([asked, prompt.suffix(tokens, 1)]))
    assert said.endswith(f"Red mug\nOld {BAR} rug<|im_end|>\n<|im_start|>assistant\n")
    assert [tokenizer.decode(one) for one in prompt.answers] == ["Yes<|im_end|>", "No<|im_end|>"]
    assert prompt.yes != prompt.no


def test_a_title_that_does_not_come_back_is_named() -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "red": 1, "mug": 2}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    lossy = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    for cut in (None, 1):  # what a cut leaves out is no loss
        with pytest.raises(WeftError, match="decodes the title 'Red vase' as"):
            check_round_trip(lossy, ["red mug", "Red vase"], TextSettings(tokens=cut))
        check_round_trip(lossy, ["red mug"], TextSettings(tokens=cut))


# --- the chat's frame


def test_without_a_template_the_error_names_the_option(tokenizer: Any) -> None:
    import copy

    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(WeftError, match=r"no chat template.*chat_template: chatml"):
        chat_frame(bare, "hello")
    assert chat_frame(bare, "hello", "chatml") == chat_frame(tokenizer, "hello")


def test_a_template_without_a_system_role(tokenizer: Any, tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}"
        "{{ raise_exception('no system role') }}{% endif %}"
        "[{{ m['role'] }}] {{ m['content'] }}<|endoftext|>{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    path = tmp_path / "one.jinja"
    path.write_text(template)
    for given_as in (template, str(path)):
        frame = chat_frame(tokenizer, "Be brief.", given_as)
        assert tokenizer.decode(frame.before) == "[user] Be brief.\n\n"
        assert tokenizer.decode(frame.after) == "<|endoftext|>[assistant] "
        assert tokenizer.decode([frame.end]) == "<|endoftext|>"


def test_a_template_that_loses_what_is_said(tokenizer: Any) -> None:
    with pytest.raises(WeftError, match="drops or changes the user's message"):
        chat_frame(tokenizer, "hello", "{{ 'nothing at all' }}")
    with pytest.raises(WeftError, match="does not exist"):
        chat_frame(tokenizer, "hello", "missing.jinja")
