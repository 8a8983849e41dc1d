"""A stage that measures says what it reads from its first batch on: titles, then users."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from world import CROSS, do, recipe

from weft.settings import validate
from weft.stages.executor import execute
from weft.systems.plan import Plan
from weft.systems.weaverec.recipe import WeaveRecRecipe


@pytest.mark.parametrize(("changes", "unit"), [({}, "texts"), (CROSS, "users")])
def test_reading_is_told_from_the_first_batch_on(
    backbone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    unit: str,
) -> None:
    for module in ("bi_encoder", "cross_encoder"):
        monkeypatch.setattr(f"weft.recommenders.text.{module}.TOKENS_AT_ONCE", 256)
    plan = Plan(
        validate(WeaveRecRecipe, recipe(backbone, precision="float32", **changes)), None, "cpu"
    )
    do([plan.domains["home"]], tmp_path)
    told: list[tuple[float, float, str]] = []
    stage = plan.evaluation("home", "zero-shot", None)
    execute(stage, tmp_path, lambda *words: told.append(words))
    items = plan.domains["home"].domain(tmp_path).items
    done = [words[0] for words in told]
    ((total, said),) = {words[1:] for words in told}
    # Titles of the same first tokens are one text, read once.
    most = 40 + (len(set(items.titles)) if unit == "texts" else 0)
    assert said == unit and most - 2 <= total <= most
    assert 0 < done[0] < 0.3 * total and done == sorted(done)
    assert done[-1] == pytest.approx(total)
    assert max(b - a for a, b in pairwise(done)) < 0.3 * total
