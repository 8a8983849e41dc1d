"""Splits in commands: a name, a short form or a block, and whose words a message names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from weft.cli.main import app
from weft.data.folder import save_domain
from weft.data.mall import mall
from weft.data.splits import leave_one_out, parse_split
from weft.errors import WeftError
from weft.recommenders.saved import save_recommender
from weft.recommenders.sequential.popularity import Popularity


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A domain and a recommender of it."""
    folder = tmp_path_factory.mktemp("world")
    home = mall(users=40, items=40)["home"]
    save_domain(home, folder / "home")
    save_recommender(
        Popularity.of(leave_one_out(home).train), home.items, folder / "popular",
        manifest={"split": "leave_one_out"},
    )  # fmt: skip
    return folder


def measured(world: Path, out: Path, *more: str) -> str:
    """The split of a measurement's protocol."""
    arguments = ["--model", str(world / "popular"), "--domain", str(world / "home"), "--drawn", "5"]
    done = CliRunner().invoke(app, ["evaluate", *arguments, "--out", str(out), *more])
    if done.exception is not None:
        raise done.exception
    return str(json.loads((out / "protocol.json").read_text("utf-8"))["split"])


def test_a_block_in_a_terminal_is_the_split_of_its_short_form(world: Path, tmp_path: Path) -> None:
    block, flow = "{kind: by_user, ratios: [8, 1, 1]}", '{"kind": "by_user", "ratios": [8, 1, 1]}'
    assert parse_split(block) == parse_split(flow) == parse_split("by_user:8,1,1")
    short = measured(world, tmp_path / "a", "--split", "by_user:8,1,1")
    assert measured(world, tmp_path / "b", "--split", block) == short


@pytest.mark.parametrize(
    "split", ["", " ", "{", "{}}", "{kind: by_month}", "{kind: by_user, ratio: 3}"]
)
def test_what_is_no_split_is_refused_before_the_work(
    world: Path, tmp_path: Path, split: str
) -> None:
    with pytest.raises(WeftError) as error:
        measured(world, tmp_path / "out", "--split", split)
    assert str(error.value).startswith("split: ") and not (tmp_path / "out").exists()


def test_a_manifest_with_a_split_that_is_none_is_named(world: Path, tmp_path: Path) -> None:
    manifest = world / "popular" / "weft.json"
    before = manifest.read_text("utf-8")
    manifest.write_text(json.dumps(json.loads(before) | {"split": 3}), "utf-8")
    try:
        for more in ([], ["--split", "by_user"]):
            with pytest.raises(WeftError) as error:
                measured(world, tmp_path / "out", *more)
            assert str(error.value).startswith(f"{manifest}: split: 3 is no split")
        manifest.unlink()
        with pytest.raises(WeftError):
            measured(world, tmp_path / "out")
    finally:
        manifest.write_text(before, "utf-8")
