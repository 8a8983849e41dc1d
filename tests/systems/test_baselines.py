"""A recommender without a backbone is a row of any system: its class, its line among the kinds, and its
name in a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from in_place import InPlace
from numpy.typing import NDArray
from torch import Tensor, nn
from world import recipe, write_recipe

import weft
from weft.data.domain import Examples, IntArray
from weft.errors import WeftError
from weft.recommenders.contract import Histories, Recommender, RecommenderSettings
from weft.recommenders.kinds import KINDS
from weft.report.model import RunReport
from weft.systems.plan import Plan, Sketch
from weft.systems.registry import load_recipe, system_of
from weft.systems.runner import run_plan


class NextSettings(RecommenderSettings):
    kind: Literal["next_item"] = "next_item"
    width: int = 8


class NextItem(Recommender):
    """Two tables of items, the last one's row against every one's."""

    settings_type = NextSettings
    settings: NextSettings

    def prepare(self, train: Sequence[Examples]) -> None:
        torch.manual_seed(self.seed)
        self._catalogue = train[0].domain.items
        self.read_files(Path())

    def read_files(self, folder: Path) -> None:
        rows, width = len(self.catalogue), self.settings.width
        self.model = nn.ModuleList(nn.Embedding(rows, width) for _ in range(2))

    def _logits(self, histories: Histories) -> Tensor:
        assert isinstance(self.model, nn.ModuleList)
        last = torch.tensor([int(history[-1]) for history in histories])
        scores: Tensor = self.model[0](last) @ self.model[1].weight.T
        return scores

    def loss(self, batch: Examples) -> Tensor:
        targets = torch.from_numpy(batch.targets.astype(np.int64))
        return nn.functional.cross_entropy(self._logits(batch.histories()), targets)

    @torch.no_grad()
    def score(
        self, histories: Histories, candidates: IntArray | None = None
    ) -> NDArray[np.float32]:
        scores = self._logits(histories).numpy()
        return scores if candidates is None else np.take_along_axis(scores, candidates, axis=1)


SMALL: dict[str, Any] = {
    "domains": ["home", {"name": "toys", "target": False}],
    "controls": [],
    "show_users": 0,
    "branches": {"examples": 16, "batch": 16, "lora": {"rank": 1}},
}


@pytest.fixture(autouse=True)
def _kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "next_item", NextItem)  # its line


def test_a_kind_without_a_backbone_is_a_row_that_can_be_served(
    backbone: Path, tmp_path: Path
) -> None:
    wide = {"recommender": {"kind": "next_item", "width": 16}, "train": {"epochs": 2},
            "title": "next item, wide"}  # fmt: skip
    values = recipe(backbone, **SMALL, baselines=["next_item", wide, "popularity"])
    study = load_recipe(write_recipe(tmp_path / "tiny.yaml", values))
    plan = Plan(study, None, "cpu")
    report = run_plan(plan, tmp_path / "run", InPlace())
    (domain,) = report.domains
    assert [row.name for row in domain.rows][:3] == ["next item", "next item, wide", "popularity"]
    row = domain.row("next item")
    assert row is not None and row.about.startswith("Two tables of items, the last one's row")
    place = tmp_path / "run" / "recommenders" / "home" / "next-item"
    assert len(weft.load_recommender(place).recommend([[]], k=3)[0]) == 3
    fitted = system_of(plan).rows()[1]
    assert fitted.weights is not None
    opened = weft.load_recommender  # a row that was served is opened like any other
    from weft.systems.publishing import publish

    publish(system_of(plan).rows(), plan, tmp_path / "run", {"home": "next item, wide"})
    served = opened(tmp_path / "run" / "recommenders" / "home" / fitted.name)
    assert len(served.recommend([[served.catalogue.titles[0]]], k=3)[0]) == 3
    again = run_plan(plan, tmp_path / "run", InPlace())
    assert again == RunReport.load(tmp_path / "run") and again.domains == report.domains


def test_every_system_has_the_rows_that_its_recipe_names(backbone: Path, tmp_path: Path) -> None:
    values = recipe(backbone, **SMALL)
    for names, rows in (
        (["zero_shot"], ["zero-shot"]),
        (["next_item", "zero_shot"], ["next item", "zero-shot"]),
        ([], []),
    ):
        study = load_recipe(write_recipe(tmp_path / "a.yaml", values | {"baselines": names}))
        named = [one.row for one in system_of(Sketch(study)).rows()]
        assert named[: len(rows) + 1] == [*rows, "target-only"]


@pytest.mark.parametrize(
    ("baselines", "words"),
    [
        (["popular"], "'popular' is not known; there are popularity, zero_shot, next_item"),
        (["bi_encoder"], "a bi_encoder recommender needs a backbone"),
        ([{"recommender": {"kind": "bi_encoder"}}], "a bi_encoder recommender needs a backbone"),
        ([{"recommender": {"kind": "next_item", "depth": 2}}], "depth"),
        (["next_item", "next_item"], "two rows of 'home' would be called 'next item'"),
    ],
)
def test_what_can_be_no_baseline_is_refused_when_the_recipe_is_read(
    backbone: Path, tmp_path: Path, baselines: list[Any], words: str
) -> None:
    values = recipe(backbone, **SMALL, baselines=baselines)
    with pytest.raises(WeftError, match=words):
        load_recipe(write_recipe(tmp_path / "a.yaml", values))
