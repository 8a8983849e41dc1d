"""No title can break a model's input: properties over any text and every kind of tokenizer."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from weft.errors import WeftError
from weft.text import (
    ItemTokens,
    Ragged,
    Structure,
    TextSettings,
    assemble,
    clean_text,
    encode_titles,
    pad,
    tokenize_items,
)

TRICKS = [
    "[SEP]", "[CLS]", "[PAD]", "[MASK]", "</s>", "<pad>", "<|im_end|>", "<|endoftext|>",
    "<|begin|>", "<|end|>", "<think>", "<item_7>", "\n", "\r\n", "\u2028", "\x00", "\u202e",
    "\ud83d", "\u200b", " ", "red", "mug", "é", "😀", "語",
]  # fmt: skip
TITLE = st.lists(
    st.one_of(st.sampled_from(TRICKS), st.text(st.characters(codec=None), max_size=6)), max_size=8
).map("".join)
TITLES = st.lists(TITLE, min_size=1, max_size=6)

for_any_title = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Every special id, but an unknown token that is nothing else: a text may be unknown."""
    names = tokenizer.special_tokens_map
    alone = [text for role, text in names.items() if role != "unk_token"]
    unknown = set() if tokenizer.unk_token in alone else {tokenizer.unk_token_id}
    return set(tokenizer.all_special_ids) - unknown


def split(body: list[int], separator: tuple[int, ...]) -> list[list[int]]:
    assert len(separator) == 1
    parts: list[list[int]] = [[]]
    for id in body:
        if id == separator[0]:
            parts.append([])
        else:
            parts[-1].append(id)
    return parts


@for_any_title
@given(titles=TITLES)
def test_the_frame_of_an_input_is_never_broken(
    tokenizer: PreTrainedTokenizerBase, titles: list[str]
) -> None:
    structure = Structure.for_tokenizer(tokenizer)
    tokens = tokenize_items(tokenizer, titles, 16)
    ids = assemble(tokens, [np.arange(len(titles))], structure=structure, max_tokens=512).of(0)
    ids = ids.tolist()

    assert tuple(ids[: len(structure.prefix)]) == structure.prefix
    assert tuple(ids[len(ids) - len(structure.suffix) :]) == structure.suffix
    body = ids[len(structure.prefix) : len(ids) - len(structure.suffix)]
    written = [tokens.of(row).tolist() for row in range(len(titles)) if len(tokens.of(row))]
    assert [part for part in split(body, structure.separator) if part] == written

    special = special_ids(tokenizer)
    frame = (*structure.prefix, *structure.separator * (len(written) - 1), *structure.suffix)
    assert sum(id in special for id in ids) == sum(id in special for id in frame)


@for_any_title
@given(title=TITLE, neighbours=TITLES)
def test_a_text_has_the_same_ids_whatever_stands_beside_it(
    tokenizer: PreTrainedTokenizerBase, title: str, neighbours: list[str]
) -> None:
    alone = tokenize_items(tokenizer, [title]).of(0)
    among = tokenize_items(tokenizer, [*neighbours, title, *neighbours])
    np.testing.assert_array_equal(among.of(len(neighbours)), alone)
    np.testing.assert_array_equal(tokenize_items(tokenizer, [clean_text(title)]).of(0), alone)
    np.testing.assert_array_equal(tokenize_items(tokenizer, [title], 3).of(0), alone[:3])


@for_any_title
@given(
    titles=TITLES,
    rows=st.lists(st.lists(st.integers(0, 5), max_size=6), max_size=4),
    room=st.integers(1, 30),
)
def test_a_cut_input_is_the_start_of_the_whole_one(
    qwen: PreTrainedTokenizerBase, titles: list[str], rows: list[list[int]], room: int
) -> None:
    tokens = tokenize_items(qwen, titles, 16)
    groups = [np.array([row % len(titles) for row in group], dtype=np.int64) for group in rows]
    structure = Structure(prefix=(0,), separator=(1, 2), suffix=(0,))
    whole = assemble(tokens, groups, structure=structure, max_tokens=10_000)
    cut = assemble(tokens, groups, structure=structure, max_tokens=room + 2)
    assert len(cut) == len(groups)
    for row in range(len(groups)):
        body = whole.of(row).tolist()[1:-1][:room]
        while body and body[-1] in structure.separator:
            body.pop()
        assert cut.of(row).tolist() == [0, *body, 0]


def test_the_frame_is_the_tokenizers_own(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    structure = Structure.for_tokenizer(tokenizer)
    tokens = tokenize_items(tokenizer, ["red mug"])
    ids = assemble(tokens, [np.array([0])], structure=structure, max_tokens=64).of(0)
    assert ids.tolist() == tokenizer("red mug")["input_ids"]


def test_separators(qwen, t5) -> None:
    assert qwen.decode(Structure.for_tokenizer(qwen).separator) == "\n"
    assert Structure.for_tokenizer(t5).separator == (t5.eos_token_id,)


@pytest.mark.minilm
def test_separator_of_bert(bert: PreTrainedTokenizerBase) -> None:
    assert Structure.for_tokenizer(bert) == Structure((101,), (102,), (102,))


def test_added_tokens_in_a_title_are_read_as_characters(qwen: PreTrainedTokenizerBase) -> None:
    title = "red <item_7> <think> <|im_end|> mug"
    ids = tokenize_items(qwen, [title]).of(0).tolist()
    assert qwen.decode(ids) == title
    assert not set(ids) & set(qwen.added_tokens_decoder)
    # … and the tokenizer itself still knows them.
    assert qwen.convert_tokens_to_ids("<item_7>") in qwen(title)["input_ids"]


def test_a_special_word_of_the_vocabulary_is_unknown_or_dropped() -> None:
    def words(unknown: str) -> PreTrainedTokenizerBase:
        vocabulary = {"</s>": 0, "<unk>": 1, "red": 2, "mug": 3}
        backend = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return PreTrainedTokenizerFast(
            tokenizer_object=backend, eos_token="</s>", unk_token=unknown
        )

    titles = ["red </s> mug", "</s>", "mug"]
    replaced = tokenize_items(words("<unk>"), titles)
    assert [replaced.of(row).tolist() for row in range(3)] == [[2, 1, 3], [1], [3]]
    dropped = tokenize_items(words("</s>"), titles)
    assert [dropped.of(row).tolist() for row in range(3)] == [[2, 3], [], [3]]


def test_items_without_text_are_skipped_and_no_input_is_empty(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    structure = Structure.for_tokenizer(tokenizer)
    tokens = tokenize_items(tokenizer, ["", "red", "mug", "\n\u200b"])
    assert tokens.lengths[0] == tokens.lengths[3] == 0
    groups = [[0, 1, 3, 2, 0], [1, 2], [0, 3], []]
    inputs = assemble(
        tokens, [np.array(g, dtype=np.int32) for g in groups], structure=structure, max_tokens=64
    )
    np.testing.assert_array_equal(inputs.of(0), inputs.of(1))
    np.testing.assert_array_equal(inputs.of(2), inputs.of(3))
    frame = structure.prefix + structure.suffix
    assert tuple(inputs.of(2).tolist()) == (frame or structure.separator)


def test_nothing_in_is_nothing_out(qwen: PreTrainedTokenizerBase) -> None:
    tokens = tokenize_items(qwen, [])
    assert len(tokens) == 0
    inputs = assemble(tokens, [], structure=Structure.for_tokenizer(qwen), max_tokens=8)
    assert len(inputs) == 0
    ids, mask = pad(inputs, np.array([], dtype=np.int64), 0)
    assert ids.shape == mask.shape == (0, 0)


def test_raw_titles_are_those_of_a_catalogue(qwen: PreTrainedTokenizerBase) -> None:
    raw = encode_titles(qwen, ["red\tceramic  mug", ""], TextSettings(words=2, tokens=None))
    same = tokenize_items(qwen, ["red ceramic", ""])
    assert raw.hash == same.hash
    assert raw.hash != tokenize_items(qwen, ["", "red ceramic"]).hash


def test_room_for_nothing_is_an_error(qwen: PreTrainedTokenizerBase) -> None:
    tokens = tokenize_items(qwen, ["mug"])
    with pytest.raises(WeftError, match="max_tokens is 2, which leaves no room"):
        assemble(tokens, [np.array([0])], structure=Structure((0,), (1,), (0,)), max_tokens=2)
    with pytest.raises(WeftError, match="separator"):
        Structure((0,), (), (0,))


def test_padding_on_the_right() -> None:
    ragged = Ragged(np.array([0, 2, 5, 6]), np.array([1, 2, 3, 4, 5, 6], dtype=np.int32))
    ids, mask = pad(ragged, np.array([2, 0, 0]), 9)
    assert ids.dtype == mask.dtype == np.int64
    assert ids.tolist() == [[6, 9], [1, 2], [1, 2]]
    assert mask.tolist() == [[1, 0], [1, 1], [1, 1]]


def test_a_tokenizer_that_cannot_be_made_plain_is_refused() -> None:
    class Slow:
        all_special_ids: tuple[int, ...] = ()

    with pytest.raises(WeftError, match="Slow has no fast version"):
        tokenize_items(Slow(), ["mug"])  # type: ignore[arg-type]


def test_hash_follows_the_ids() -> None:
    def tokens(offsets: list[int], ids: list[int]) -> ItemTokens:
        return ItemTokens(np.array(offsets), np.array(ids, dtype=np.int32))

    assert tokens([0, 2], [1, 2]).hash == tokens([0, 2], [1, 2]).hash
    assert tokens([0, 1, 2], [1, 2]).hash != tokens([0, 2], [1, 2]).hash
