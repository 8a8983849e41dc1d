"""Catalogues from tables and from files of titles."""

from __future__ import annotations

from pathlib import Path

import pytest

from weft.data.catalogue import load_catalogue
from weft.errors import WeftError


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def test_a_file_of_titles_is_a_catalogue(tmp_path: Path) -> None:
    found = load_catalogue(written(tmp_path, "new.txt", "\ufeffRed mug\n\n  Blue rug \nRed mug\n"))
    assert list(found.titles) == [
        "Red mug", "Blue rug", "Red mug",
    ]  # fmt: skip
    assert list(found.item_ids) == ["1", "3", "4"]  # the numbers of the lines


@pytest.mark.parametrize(("name", "mark"), [("items.csv", ","), ("items.tsv", "\t")])
def test_tables_in_text_keep_their_ids_and_columns(tmp_path: Path, name: str, mark: str) -> None:
    lines = [["item_id", "title", "brand"], ["007", "Red mug", "Elm"], ["8", "Blue rug", ""]]
    path = written(tmp_path, name, "\n".join(mark.join(line) for line in lines))
    found = load_catalogue(path)
    assert list(found.item_ids) == ["007", "8"]  # no number lost its zeros
    assert found.frame["brand"].to_list() == ["Elm", ""]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("none.txt", "\n \n", "none.txt holds no items"),
        ("bare.csv", "name\nmug\n", "bare.csv lacks the column 'title'"),
        ("empty.csv", "", "empty.csv can't be read as a catalogue"),
        ("twice.csv", "item_id,title\na,mug\na,rug\n", "item_id 'a' is in two rows"),
        ("not.parquet", "mug", "not.parquet is no readable parquet file"),
    ],
)
def test_what_is_no_catalogue_is_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(WeftError, match=said):
        load_catalogue(written(tmp_path, name, text))


def test_whoever_answers_in_ids_asks_for_them(tmp_path: Path) -> None:
    bare = written(tmp_path, "bare.csv", "sku,title\nA1,mug\n")
    assert load_catalogue(bare).titles == ["mug"]
    with pytest.raises(WeftError, match=r"bare\.csv has no column 'item_id'.* it has sku, title"):
        load_catalogue(bare, ids=True)
    assert load_catalogue(written(tmp_path, "t.txt", "mug\n"), ids=True).item_ids == ["1"]


def test_an_item_without_an_id_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "empty.csv", "item_id,title\na,mug\n,rug\n")
    with pytest.raises(WeftError, match=r"empty\.csv: item_id is empty in row 2"):
        load_catalogue(path)
