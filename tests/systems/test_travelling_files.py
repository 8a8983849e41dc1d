"""Files that travel with weights are learned once in a study, so that its branches can be merged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from in_place import InPlace
from numpy.typing import NDArray
from torch import Tensor, nn
from world import recipe, write_recipe

import weft
from weft.data.domain import Catalogue, Examples, IntArray
from weft.errors import SettingError
from weft.recommenders.contract import BackboneRecommender, Histories, RecommenderSettings
from weft.recommenders.equipped import EquippedBackbone
from weft.recommenders.kinds import KINDS
from weft.systems.plan import Plan
from weft.systems.registry import load_recipe
from weft.systems.runner import run_plan

FILE = "edges.npy"


class LengthCodedSettings(RecommenderSettings):
    kind: Literal["length_coded"] = "length_coded"


class LengthCoded(BackboneRecommender):
    """An item's code is whether its title is longer than those of the domains that were prepared on."""

    settings_type = LengthCodedSettings
    files = (FILE,)

    def __init__(
        self,
        equipped: EquippedBackbone,
        settings: RecommenderSettings,
        catalogue: Catalogue | None = None,
    ) -> None:
        super().__init__(equipped, settings, catalogue)
        torch.manual_seed(equipped.seed)
        self.model.code_head = nn.Linear(self.model.config.hidden_size, 2)
        equipped.equip(self.whole_modules())
        self.edges = np.zeros(0)

    def whole_modules(self) -> dict[str, nn.Module]:
        return {"code_head": self.model.code_head}

    def prepare(self, train: Sequence[Examples]) -> None:
        titles = [len(title) for one in train for title in one.domain.items.titles]
        self.edges = np.array([np.mean(titles)])

    def _codes(self, catalogue: Catalogue) -> NDArray[np.int64]:
        return np.digitize([len(title) for title in catalogue.titles], self.edges)

    def _logits(self, catalogue: Catalogue, histories: Histories) -> Tensor:
        codes = self._codes(catalogue)
        ids = torch.tensor([[5 + int(codes[int(history[-1])])] for history in histories])
        states = self.equipped.hidden(ids, torch.ones_like(ids))[:, 0]
        logits: Tensor = self.model.code_head(states.float())
        return logits

    def loss(self, batch: Examples) -> Tensor:
        items = batch.domain.items
        wanted = torch.from_numpy(self._codes(items)[batch.targets])
        return nn.functional.cross_entropy(self._logits(items, batch.histories()), wanted)

    @torch.no_grad()
    def score(
        self, histories: Histories, candidates: IntArray | None = None
    ) -> NDArray[np.float32]:
        logits = self._logits(self.catalogue, histories).numpy()
        scores: NDArray[np.float32] = logits[:, self._codes(self.catalogue)]
        return scores if candidates is None else np.take_along_axis(scores, candidates, axis=1)

    def write_files(self, folder: Path) -> None:
        np.save(folder / FILE, self.edges)

    def read_files(self, folder: Path) -> None:
        self.edges = np.load(folder / FILE)


def test_branches_of_a_study_share_what_travels_with_them(
    backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, "length_coded", LengthCoded)
    values = recipe(
        backbone,
        domains=["home", {"name": "toys", "target": False}],
        recommender={"kind": "length_coded"},
        branches={"examples": 16, "batch": 16, "lora": {"rank": 1}},
        controls=[],
        show_users=0,
    )
    with pytest.raises(SettingError, match="a length_coded recommender can't score untrained"):
        load_recipe(write_recipe(tmp_path / "tiny.yaml", values))
    values["baselines"] = ["popularity"]
    study = load_recipe(write_recipe(tmp_path / "tiny.yaml", values))
    plan = Plan(study, None, "cpu")
    (table,) = run_plan(plan, tmp_path / "run", InPlace()).domains
    assert [row.name for row in table.rows] == ["popularity", "target-only", "weaverec"]
    domains = [one.domain(tmp_path / "run") for one in plan.domains.values()]
    lengths = [len(title) for domain in domains for title in domain.items.titles]
    for row in ("target-only", "weaverec"):
        served = weft.load_recommender(tmp_path / "run" / "recommenders" / "home" / row)
        assert isinstance(served.recommender, LengthCoded)
        assert served.recommender.edges.tolist() == [np.mean(lengths)]
        assert len(served.recommend([[served.catalogue.titles[0]]], k=3)[0]) == 3
