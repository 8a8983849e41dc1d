"""A catalogue without titles is refused, with the column that may hold them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from data_logs import T0, make_domain
from typer.testing import CliRunner

from weft.cli.data import app
from weft.data.domain import Domain
from weft.data.ingest import ingest, read_domain
from weft.data.source import Source
from weft.data.splits import leave_one_out
from weft.data.titles import likely_titles, require_texts
from weft.errors import WeftError
from weft.evaluation.candidates import CandidateSettings, draw_candidates
from weft.settings import validate


def log(path: Path, header: str, *cells: str) -> Path:
    rows = "".join(f"u,i{n},{T0 + n},{one}\n" for n, one in enumerate(cells))
    path.write_text(f"user_id,item_id,timestamp,{header}\n{rows}")
    return path


def read(path: Path, **options: Any) -> tuple[list[str], tuple[str, ...]]:
    """Titles and notes."""
    domain, _, raw = read_domain(validate(Source, {"interactions": path, **options}))
    return domain.items.titles, raw.notes


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(WeftError) as caught:
        read(path, **options)
    return str(caught.value).replace(f"{path.parent}/", "")


@pytest.mark.parametrize("name", ["product_name", "name", "ItemName", "movie_title", "product_title", "item_name", "productName", "Title", "TITLE", "Product Name", "book-title", "artist_album_name_title" , "itemname"])  # fmt: skip
def test_the_likely_column_is_named(tmp_path: Path, name: str) -> None:
    if "artist" in name:  # an artist's name is no title of an item
        assert likely_titles([name]) == []
        return
    path = log(tmp_path / "log.csv", name, "A", "B")
    assert refused(path) == (
        f"log.csv: no item has a title, for there is no column of titles; is it '{name}'?"
        f" --column title={name}; or go on without: --untitled"
    )
    assert read(path, columns={"title": name})[0] == ["A", "B"]


@pytest.mark.parametrize("name", ["category_name", "brand_name", "user_name", "store_name", "first_name", "filename", "price", "review_title"])  # fmt: skip
def test_other_names_are_not_taken_for_titles(tmp_path: Path, name: str) -> None:
    path = log(tmp_path / "log.csv", name, "A", "B")
    message = refused(path)
    assert (
        "name it with --column title=NAME (its columns: 'user_id', 'item_id', 'timestamp'"
        in message
    )
    assert "--untitled" in message
    assert f"'{name}'" in message
    assert read(path, untitled=True) == (["", ""], ("no item has a title: only recommenders that know items by their ids can use them",))  # fmt: skip


def test_several_likely_columns_are_a_choice(tmp_path: Path) -> None:
    path = log(tmp_path / "log.csv", "product_name,name", "A,x", "B,y")
    assert "'product_name', 'name' may be: choose with --column title=product_name" in refused(path)


def test_an_empty_column_of_titles_is_none(tmp_path: Path) -> None:
    path = log(tmp_path / "log.csv", "title,product_name", ",A", " ,B")
    message = refused(path)
    assert "column 'title' is empty in every row; is it 'product_name'?" in message


def test_an_items_file_and_every_format(tmp_path: Path) -> None:
    path = log(tmp_path / "log.csv", "price", "1", "2")
    (tmp_path / "items.csv").write_text("item_id,product_name\ni0,A\ni1,B\n")
    message = refused(path, items=tmp_path / "items.csv")
    assert message.startswith("items.csv: no item has a title")
    assert "--item-column title=product_name" in message
    (tmp_path / "items.jsonl").write_text('{"item_id": "i0", "name": "A"}\n{"item_id": "i1"}\n')
    assert "--item-column title=name" in refused(path, items=tmp_path / "items.jsonl")
    rows = [{"user_id": 1, "item_id": 2, "timestamp": T0, "ItemName": "A"}]
    (tmp_path / "log.jsonl").write_text(json.dumps(rows[0]))
    assert "--column title=ItemName" in refused(tmp_path / "log.jsonl")
    reviews = tmp_path / "r.csv"
    reviews.write_text(f"u,a,5.0,{T0}\n")
    assert "name the file of items with --items" in refused(reviews, format="amazon-2014")


def test_recbole_takes_a_lone_title_and_says_so(tmp_path: Path) -> None:
    inter, item = tmp_path / "x.inter", tmp_path / "x.item"
    inter.write_text(f"user_id:token\titem_id:token\ttimestamp:float\nu\ta\t{T0}\n")
    item.write_text("item_id:token\tmovie_title:token_seq\tcategory_name:token\na\tA\tc\n")
    titles, notes = read(inter)
    assert titles == ["A"]
    assert "column 'movie_title' is taken as the title" in notes[0]
    item.write_text("item_id:token\tcategory_name:token\na\tc\n")
    assert "no item has a title" in refused(inter)
    item.write_text("item_id:token\titem_name:token\tproduct_title:token\na\tc\td\n")
    assert "'item_name', 'product_title' may be: choose with --item-column" in refused(inter)


def test_few_titles_are_said_with_their_count(tmp_path: Path) -> None:
    path = log(tmp_path / "log.csv", "title,name", "A,A", ",B", ",C")
    titles, notes = read(path)
    assert titles == ["A", "", ""]
    assert notes == (
        "only 1 of 3 items have a title ('name' may hold titles too); --titled leaves the others out",
    )
    assert read(log(tmp_path / "log.csv", "title", "A", "B", ""))[1] == ()


def test_titles_that_change_from_row_to_row_are_said(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(
        "user_id,item_id,timestamp,title\n"
        f"u,a,{T0},Great!\nv,a,{T0},Broke\nw,a,{T0},Meh\nu,b,{T0},Nice\nv,b,{T0},Nice\n"
    )
    (note,) = read(path)[1]
    assert "1 of 2 items with several rows have different titles" in note
    assert "not a review's" in note


def test_the_command_line_prints_notes_on_stderr_and_pure_json(tmp_path: Path) -> None:
    path = log(tmp_path / "log.csv", "price", "1", "2")
    arguments = ["ingest", str(path), str(tmp_path / "out"), "--untitled", "--json"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert json.loads(done.stdout)["notes"] == ["no item has a title: only recommenders that know items by their ids can use them"]  # fmt: skip
    assert done.stderr.startswith("note: no item has a title")
    with pytest.raises(WeftError, match="no item has a title"):
        ingest(Source(interactions=path), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def untitled() -> Domain:
    rows = [(f"u{u}", f"i{i}", T0 + i) for u in range(3) for i in range(5)]
    return make_domain(rows, {f"i{n}": "" for n in range(5)})


def test_candidates_blame_the_titles() -> None:
    examples = leave_one_out(untitled()).test
    with pytest.raises(WeftError) as caught:
        draw_candidates(examples, CandidateSettings(drawn=2), seed=0)
    assert "domain 'test': none of its 5 items has a title" in str(caught.value)
    assert "candidates.drawn" not in str(caught.value)


def test_a_run_needs_texts() -> None:
    with pytest.raises(WeftError, match="none of its 5 items has a title or any other text"):
        require_texts("test", untitled().items)
    require_texts("test", make_domain([("u", "a", T0)], {"a": "A"}).items)


def test_titles_that_are_no_texts_are_refused(tmp_path: Path) -> None:
    rows = {"user_id": ["u"], "item_id": ["a"], "timestamp": [T0]}
    for title in ({"en": "A"}, b"A", [{"en": "A"}], [["A"]], ["A", "B"]):
        pl.DataFrame({**rows, "title": [title]}).write_parquet(tmp_path / "log.parquet")
        message = refused(tmp_path / "log.parquet")
        assert "log.parquet: column 'title' holds" in message
        assert message.endswith("; titles are text")
