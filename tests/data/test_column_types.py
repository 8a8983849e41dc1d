"""Parquet files whose columns hold something else than text, ids and times."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from data_logs import T0

from weft.data.catalogue import load_catalogue
from weft.data.folder import load_domain
from weft.errors import WeftError

NO_TITLES: dict[str, list[Any]] = {
    "Struct": [{"a": 1}, {"a": 2}],
    "List": [["a"], ["b", "c"]],
    "Binary": [b"a", b"b"],
    "Float64": [1.5, 2.5],
    "Boolean": [True, False],
    "Date": [datetime.date(2020, 1, 1)] * 2,
    "Duration": [datetime.timedelta(1)] * 2,
}


def write(folder: Path, log: dict[str, Any] | None = None, **items: Any) -> Path:
    there = pl.DataFrame({"item_id": ["x", "y"], "title": ["A", "B"], **items})
    there.write_parquet(folder / "items.parquet")
    rows = {"user_id": ["u", "u"], "item_id": there["item_id"], "timestamp": [T0, T0 + 1]}
    pl.DataFrame(rows | (log or {})).write_parquet(folder / "interactions.parquet")
    return folder


@pytest.mark.parametrize("kind", NO_TITLES)
@pytest.mark.parametrize("load", [load_catalogue, load_domain])
def test_titles_that_are_no_text_are_refused(kind: str, load: Any, tmp_path: Path) -> None:
    write(tmp_path, title=NO_TITLES[kind])
    with pytest.raises(WeftError) as error:
        load(tmp_path)
    message = str(error.value)
    assert message.startswith(f"{tmp_path / 'items.parquet'}: column 'title' holds {kind}")
    assert message.endswith("; titles are text") and message.isprintable()


@pytest.mark.parametrize("load", [load_catalogue, load_domain])
def test_other_columns_are_texts_or_refused(load: Any, tmp_path: Path) -> None:
    def loaded(**items: Any) -> pl.DataFrame:
        found = load(write(tmp_path, **items))
        frame: pl.DataFrame = getattr(found, "items", found).frame
        return frame

    assert loaded(title=[1917, 300])["title"].to_list() == ["1917", "300"]
    assert loaded(title=["A", None])["title"].to_list() == ["A", ""]
    kinds = loaded(title=pl.Series(["A", "B"], dtype=pl.Categorical), kinds=[["a", "b"], None])
    assert kinds["title"].to_list() == ["A", "B"] and kinds["kinds"].to_list() == ["a, b", ""]
    for wrong in ([{"a": 1}] * 2, [[{"a": 1}]] * 2, [[["a"]]] * 2, [b"a"] * 2):
        with pytest.raises(WeftError, match=r"items\.parquet: column 'kinds' holds .* is no text"):
            loaded(kinds=wrong)
    for wrong in ([1.5, 2.5], [True, False], [["x"], ["y"]], [b"x", b"y"]):
        with pytest.raises(WeftError, match=r"column 'item_id' holds .*; ids are text or whole"):
            loaded(item_id=wrong)


@pytest.mark.parametrize("column", ["user_id", "timestamp"])
@pytest.mark.parametrize("kind", ["Struct", "List", "Binary", "Boolean", "Duration"])
def test_interactions_of_other_kinds_are_refused(kind: str, column: str, tmp_path: Path) -> None:
    write(tmp_path, {column: NO_TITLES[kind]})
    with pytest.raises(
        WeftError, match=rf"interactions\.parquet.*: column '{column}' holds {kind}"
    ):
        load_domain(tmp_path)
