"""`weft recommend` and `evaluate` told a folder that is no recommender's, or another split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from weft.cli.models import evaluate_command
from weft.data.domain import Catalogue, Domain, Sequences
from weft.data.folder import save_domain
from weft.errors import WeftError
from weft.recommenders.chosen import choose
from weft.recommenders.item_counts import ItemCounts
from weft.recommenders.saved import save_recommender
from weft.recommenders.sequential.popularity import Popularity

ITEMS, USERS, LENGTH = 12, 10, 4


def domain() -> Domain:
    ids = [f"i{n}" for n in range(ITEMS)]
    frame = pl.DataFrame({"item_id": ids, "title": [f"Title {n}" for n in ids]})
    rows = np.arange(USERS * LENGTH)
    users = pl.Series("user_id", [f"u{n}" for n in range(USERS)])
    sequences = Sequences(
        users,
        np.arange(0, USERS * LENGTH + 1, LENGTH),
        (rows * 5 % ITEMS).astype(np.int32),
        1_400_000_000 + rows * 86_400,
    )
    return Domain("shop", Catalogue(frame), sequences)


def saved(folder: Path, split: str) -> Path:
    counts = np.arange(1, ITEMS + 1)
    items = domain().items
    floor = Popularity(catalogue=items, counts=ItemCounts(items, counts, counts))
    save_recommender(floor, items, folder, manifest={"domains": ["shop"], "split": split})
    return folder


def test_what_holds_recommenders_is_answered_with_their_names(tmp_path: Path) -> None:
    run = tmp_path / "run"
    row = saved(run / "recommenders" / "Shop" / "popularity", "leave_one_out")
    assert choose(row).folder == row
    for path, words in (
        (run, f"name one of them: {row.parent}"),
        (run / "recommenders", f"name one of them: {row.parent}"),
        (run / "recommenders" / "shop", f"shop does not exist; there are {row.parent}"),
        (row.parent / "popular", f"popular does not exist; there are {row}"),
        (tmp_path / "nothing", "nothing does not exist"),
        (row / "items.parquet", "is a file, not a recommender's folder"),
        (tmp_path, "is no recommender's folder: it has none of weft.json"),
    ):
        with pytest.raises(WeftError) as error:
            choose(path)
        assert words in str(error.value)


def test_another_split_than_that_of_training_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_domain(domain(), tmp_path / "shop")
    model = saved(tmp_path / "model", "leave_one_out")

    def measured(split: str | None, out: str) -> str:
        evaluate_command(
            model, tmp_path / "shop", tmp_path / out, drawn=3, by="uniform", split=split, seed=0,
            users=None, full=None,
        )  # fmt: skip
        return capsys.readouterr().err

    assert measured(None, "own") == measured("leave_one_out", "same") == ""
    said = measured("global_time", "other")
    assert "was trained under another split (leave_one_out)" in said
    assert "the numbers may be too good" in " ".join(said.split())
