"""Fields tokenised one by one: each cut by itself, names marked, and inputs that say whose is whose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from weft.data.domain import Catalogue
from weft.text import (
    Structure,
    TextSettings,
    assemble,
    concatenate_rows,
    encode_items,
    encode_titles,
)
from weft.text.tokens import ItemTokens

ITEMS = Catalogue(
    pl.DataFrame(
        {
            "item_id": ["a", "b", "c"],
            "title": ["red mug blue", "table", ""],
            "brand": ["green chair lamp", "", "rug"],
        }
    )
)


@pytest.fixture(scope="module")
def tokenizer(tiny_bert: Path):  # type: ignore[no-untyped-def]
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_bert)


def words(tokenizer, tokens: ItemTokens, row: int) -> str:  # type: ignore[no-untyped-def]
    return " ".join(tokenizer.convert_ids_to_tokens(tokens.of(row).tolist())).replace(" ##", "")


def test_each_value_is_cut_by_itself_and_the_whole_after(tokenizer) -> None:  # type: ignore[no-untyped-def]
    settings = TextSettings(fields=["title", "brand"], field_tokens=2, tokens=None)
    tokens = encode_items(tokenizer, ITEMS, settings)
    assert [words(tokenizer, tokens, row) for row in range(3)] == [
        "red mug green chair", "table", "rug",
    ]  # fmt: skip
    cut = encode_items(tokenizer, ITEMS, settings.model_copy(update={"tokens": 3}))
    assert words(tokenizer, cut, 0) == "red mug green"


def test_names_of_fields_are_marked_and_stand_only_before_values(tokenizer) -> None:  # type: ignore[no-untyped-def]
    settings = TextSettings(fields=["title", "brand"], keys=True, field_tokens=8, tokens=None)
    tokens = encode_items(tokenizer, ITEMS, settings)
    assert words(tokenizer, tokens, 0) == "title red mug blue brand green chair lamp"
    assert words(tokenizer, tokens, 1) == "title table"
    assert tokens.keys is not None
    marked = tokens.ids[tokens.keys]
    assert set(tokenizer.convert_ids_to_tokens(marked.tolist())) <= set("titlebrand") | {
        f"##{letter}" for letter in "titlebrand"
    }
    titles = encode_titles(tokenizer, ["table"], settings)
    assert titles.of(0).tolist() == tokens.of(1).tolist()


def test_inputs_say_which_item_a_token_is_of() -> None:
    tokens = ItemTokens(
        np.array([0, 2, 2, 5]), np.array([7, 8, 4, 5, 6], np.int32), np.array([1, 0, 1, 0, 0], bool)
    )
    structure = Structure((2,), (), (), placed=True)
    found = assemble(
        tokens, [np.array([2, 1, 0]), np.array([1]), np.array([0, 2])],
        structure=structure, max_tokens=5,
    )  # fmt: skip
    assert [found.of(row).tolist() for row in range(3)] == [[2, 4, 5, 6, 7], [2], [2, 7, 8, 4, 5]]
    assert found.items is not None
    assert found.keys is not None
    assert found.items.tolist() == [0, 1, 1, 1, 2, 0, 0, 1, 1, 2, 2]
    assert found.keys.tolist() == [False, True, False, False, True, False, False, True, False, True, False]  # fmt: skip
    twice = concatenate_rows([found, found])
    assert len(twice) == 6
    assert twice.of(5).tolist() == found.of(2).tolist()
    assert twice.items is not None
    assert twice.items.tolist() == found.items.tolist() * 2
