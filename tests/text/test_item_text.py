"""What becomes of an item's text before a tokenizer sees it."""

import unicodedata

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from weft.data.domain import Catalogue
from weft.errors import WeftError
from weft.text import TextSettings, clean_text, item_texts

ANY_TEXT = st.text(st.characters(codec=None), max_size=60)


@pytest.mark.parametrize(
    ("dirty", "expected"),
    [
        ("Mug", "Mug"),
        ("  Mug \t\n blue\r\n", "Mug blue"),
        ("Mug\x00blue\x85red", "Mug blue red"),
        ("Mug\u00a0blue\u2028red\u3000big", "Mug blue red big"),
        ("Kin\u00addle\u200b Paper\u2060white\ufeff", "Kindle Paperwhite"),
        ("\u202egnirts\u202c \u2066x\u2069", "gnirts x"),
        ("hidden\U000e0041\U000e0042 tags", "hidden tags"),
        ("Cafe\u0301", "Caf\u00e9"),
        ("e\u200b\u0301", "\u00e9"),
        ("½ inch ™ x²", "½ inch ™ x²"),
        ("\ud83d\ude00 ok", "\U0001f600 ok"),
        ("a\ud83db\ude00c", "abc"),
        ("日本語 タイトル", "日本語 タイトル"),
        ("\n\t ", ""),
    ],
)
def test_clean_keeps_what_is_seen_and_nothing_else(dirty: str, expected: str) -> None:
    assert clean_text(dirty) == expected


@given(ANY_TEXT)
def test_clean_text_is_one_well_formed_line(text: str) -> None:
    once = clean_text(text)
    assert clean_text(once) == once
    assert once == " ".join(once.split()) == unicodedata.normalize("NFC", once)
    assert not {unicodedata.category(character) for character in once} & {"Cc", "Cs", "Zl", "Zp"}
    once.encode("utf-8")


@given(ANY_TEXT, ANY_TEXT)
def test_words_are_cut_from_the_joined_fields(title: str, brand: str) -> None:
    catalogue = Catalogue(
        pl.DataFrame({"item_id": ["a"], "title": [clean_text(title)], "brand": [clean_text(brand)]})
    )
    [whole] = item_texts(catalogue, TextSettings(fields=["title", "brand"]))
    [cut] = item_texts(catalogue, TextSettings(fields=["title", "brand"], words=3))
    assert whole.split() == (clean_text(title) + " " + clean_text(brand)).split()
    assert cut.split() == whole.split()[:3]


def test_fields_are_joined_in_the_order_asked_for_and_empty_ones_skipped() -> None:
    catalogue = Catalogue(
        pl.DataFrame(
            {
                "item_id": ["a", "b", "c"],
                "title": ["Mug", "", "Jug\n[SEP]"],
                "brand": ["Elm", "Oak", None],
                "year": [1999, None, 2001],
            }
        )
    )
    assert item_texts(catalogue, TextSettings()) == ["Mug", "", "Jug [SEP]"]
    assert item_texts(catalogue, TextSettings(fields=["brand", "title", "year"])) == [
        "Elm Mug 1999",
        "Oak",
        "Jug [SEP] 2001",
    ]


def test_an_unknown_field_is_named_beside_those_there_are() -> None:
    catalogue = Catalogue(pl.DataFrame({"item_id": ["a"], "title": ["Mug"], "brand": ["Elm"]}))
    with pytest.raises(WeftError, match=r"no field 'colour'; it has: title, brand"):
        item_texts(catalogue, TextSettings(fields=["title", "colour"]))


@pytest.mark.parametrize("wrong", [{"fields": []}, {"words": 0}, {"tokens": 0}, {"field": ["x"]}])
def test_settings_refuse_what_makes_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TextSettings.model_validate(wrong)


def test_fields_may_be_absent_and_names_may_be_said() -> None:
    catalogue = Catalogue(
        pl.DataFrame({"item_id": ["a", "b"], "title": ["Mug", "Jug"], "brand": ["Elm", ""]})
    )
    fields = ["title", "brand?", "category?"]
    assert item_texts(catalogue, TextSettings(fields=fields)) == ["Mug Elm", "Jug"]
    named = item_texts(catalogue, TextSettings(fields=fields, keys=True))
    assert named == ["title Mug brand Elm", "title Jug"]
    with pytest.raises(WeftError, match=r"no field 'category'.*'category\?' if it may be absent"):
        item_texts(catalogue, TextSettings(fields=["title", "category"]))
    with pytest.raises(ValidationError, match="not both"):
        TextSettings(words=3, field_tokens=4)
