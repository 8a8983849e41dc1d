"""Names of domains and of a merge's parts: one rule at every door."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from weft.data.folder import load_domain, save_domain
from weft.data.ingest import ingest
from weft.data.mall import mall
from weft.data.source import Source
from weft.errors import WeftError
from weft.merging.merge import merge
from weft.merging.recipe_file import load_merge_recipe
from weft.names import check_name
from weft.systems.registry import load_recipe

BAD = ["", " ", "a\nb", "a\rb", "a\x1b[2Jb", "a\x00", "a\u2028b", "\u202eabc", "a ", "x" * 201]


@given(st.text())
def test_a_name_is_one_visible_line_or_refused_in_one(text: str) -> None:
    try:
        assert check_name(text, "the name") == text
        assert text.isprintable() and text.strip() == text and 0 < len(text) <= 200
    except WeftError as error:
        assert str(error).isprintable() and len(str(error)) < 500


@pytest.mark.parametrize("name", ["home", "Büro & Heim", "日本", "a.b-c_d 2014"])
def test_ordinary_names_are_names(name: str) -> None:
    assert check_name(name, "the name") == name


@pytest.mark.parametrize("name", BAD)
def test_every_door_refuses_what_is_no_name(name: str, tmp_path: Path) -> None:
    doors: list[Any] = []
    domain = mall(0, users=4, items=30)["home"]
    save_domain(domain, tmp_path / "home")
    manifest = tmp_path / "home" / "domain.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"name": name}))
    if name:  # an empty one is the folder's
        doors.append(lambda: load_domain(tmp_path / "home"))
        log = pl.DataFrame({"user_id": ["u"], "item_id": ["x"], "timestamp": [1_400_000_000]})
        log.with_columns(title=pl.lit("A lamp")).write_csv(tmp_path / "log.csv")
        source = Source(interactions=tmp_path / "log.csv")
        doors.append(lambda: ingest(source, tmp_path / "out", name=name))
    (tmp_path / "run.yaml").write_text(json.dumps({"domains": [name, "other"], "mall": {}}))
    doors.append(lambda: load_recipe(tmp_path / "run.yaml"))
    for part in ("a", "b"):
        save_file({"t": torch.zeros(2)}, tmp_path / f"{part}.safetensors")
    paths = [tmp_path / f"{part}.safetensors" for part in ("a", "b")]
    doors.append(lambda: merge(paths, "linear", out=tmp_path / "merged", labels=[name, "other"]))
    parts = [{"path": str(paths[0]), "name": name}, {"path": str(paths[1])}]
    (tmp_path / "merge.yaml").write_text(json.dumps({"method": "linear", "parts": parts}))
    doors.append(lambda: load_merge_recipe(tmp_path / "merge.yaml"))
    for door in doors:
        with pytest.raises(WeftError) as error:
            door()
        assert str(error.value).isprintable()
    assert not (tmp_path / "out").exists() and not (tmp_path / "merged").exists()
