"""A run on a domain without titles blames the titles, before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from world import recipe

from weft.data.filters import Filters, apply_filters
from weft.data.folder import save_domain
from weft.data.ingest import ingest
from weft.data.mall import mall
from weft.data.source import Source
from weft.errors import WeftError
from weft.settings import validate
from weft.systems.runner import run
from weft.systems.weaverec.recipe import WeaveRecRecipe


def test_an_untitled_domain_is_named(backbone: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    rows = [f"u{u},i{(u + n) % 30},{1_400_000_000 + n}" for u in range(40) for n in range(5)]
    log.write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    ingest(Source(interactions=log, untitled=True), tmp_path / "data" / "bare")
    toys, _ = apply_filters(mall(users=40, items=40)["toys"], Filters())
    save_domain(toys, tmp_path / "data" / "toys")
    values = recipe(backbone, domains=["toys", "bare"], mall=None)
    with pytest.raises(WeftError) as caught:
        run(validate(WeaveRecRecipe, values), tmp_path / "run", data=tmp_path / "data", workers=1)
    assert "domain 'bare': none of its 30 items has a title" in str(caught.value)
    assert "candidates.drawn" not in str(caught.value)
    assert not (tmp_path / "run").exists()
