"""A new kind of recommender is one class: it is trained, evaluated, published, loaded and asked by the
calls of every other one."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny import last_of, make_shop
from torch import Tensor, nn

import weft
from weft.adapters import LoraSettings, load_adapter
from weft.artifacts.atomic import write_json
from weft.artifacts.travelling import carry_files, file_hashes
from weft.data.domain import Catalogue, Examples, IntArray
from weft.errors import MismatchError, NotFoundError, SettingError
from weft.evaluation.candidates import CandidateSettings
from weft.evaluation.evaluate import evaluate
from weft.evaluation.protocol import EvaluationSettings
from weft.recommenders import kinds
from weft.recommenders.contract import BackboneRecommender, Histories, Recommender
from weft.recommenders.contract import RecommenderSettings as Settings
from weft.recommenders.equipped import EquippedBackbone
from weft.recommenders.forms import Opening, read_form
from weft.recommenders.kinds import new_recommender, recommender_settings, register_recommender
from weft.recommenders.saved import open_recommender, save_recommender
from weft.training import TrainSettings, train

MEASURED = EvaluationSettings(candidates=CandidateSettings(drawn=9))


class WalkSettings(Settings):
    kind: Literal["walk"] = "walk"
    width: int = 8


class Walk(Recommender):
    """Two tables over ids, the last item's row against every item's: no backbone, no text."""

    settings_type = WalkSettings
    settings: WalkSettings

    def prepare(self, train: Sequence[Examples]) -> None:
        torch.manual_seed(self.seed)
        self._catalogue = train[0].domain.items
        self._build(len(self.catalogue))

    def _build(self, items: int) -> None:
        self.model = nn.ModuleList(nn.Embedding(items, self.settings.width) for _ in range(2))

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

    def read_files(self, folder: Path) -> None:
        self._build(len(self.catalogue))


class CodedSettings(Settings):
    kind: Literal["coded"] = "coded"
    codes: int = 4


class Coded(BackboneRecommender):
    """Items that share a code share a score: that of the code's word after the history's."""

    settings_type = CodedSettings
    settings: CodedSettings
    files = ("codes.json",)

    def __init__(
        self,
        equipped: EquippedBackbone,
        settings: CodedSettings,
        catalogue: Catalogue | None = None,
    ) -> None:
        super().__init__(equipped, settings, catalogue)
        torch.manual_seed(equipped.seed)
        self.model.code_head = nn.Linear(self.model.config.hidden_size, settings.codes)
        equipped.equip(self.whole_modules())
        self.codes: dict[str, int] = {}

    def whole_modules(self) -> dict[str, nn.Module]:
        return {"code_head": self.model.code_head}

    def prepare(self, train: Sequence[Examples]) -> None:
        ids = train[0].domain.items.item_ids
        self.codes = {one: row * self.settings.codes // len(ids) for row, one in enumerate(ids)}
        self._catalogue = train[0].domain.items

    def _of_items(self) -> NDArray[np.int64]:
        return np.array([self.codes[one] for one in self.catalogue.item_ids])

    def _logits(self, histories: Histories) -> Tensor:
        codes = self._of_items()
        ids = torch.tensor([[5 + codes[int(history[-1])]] for history in histories])
        states = self.equipped.hidden(ids, torch.ones_like(ids))[:, 0]
        logits: Tensor = self.model.code_head(states.float())
        return logits

    def loss(self, batch: Examples) -> Tensor:
        wanted = torch.from_numpy(self._of_items()[batch.targets])
        return nn.functional.cross_entropy(self._logits(batch.histories()), wanted)

    def score(
        self, histories: Histories, candidates: IntArray | None = None
    ) -> NDArray[np.float32]:
        self.model.eval()
        with torch.inference_mode():
            scores = self._logits(histories).numpy()[:, self._of_items()]
        return scores if candidates is None else np.take_along_axis(scores, candidates, axis=1)

    def write_files(self, folder: Path) -> None:
        (folder / "codes.json").write_text(json.dumps(self.codes))

    def read_files(self, folder: Path) -> None:
        self.codes = json.loads((folder / "codes.json").read_text())


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    before = dict(kinds.KINDS)
    register_recommender(Walk)
    register_recommender(Coded)
    yield
    kinds.KINDS.clear()
    kinds.KINDS.update(before)


def published(
    recommender: Recommender, folder: Path, *, steps: TrainSettings
) -> tuple[Recommender, Path]:
    """Trained, measured before and after, and published."""
    examples = last_of(make_shop())
    recommender.prepare([examples])
    before = evaluate(recommender, examples, MEASURED).metrics()["ndcg@10"]
    trained = train(recommender, [examples], steps, seed=3)
    assert trained.steps == trained.kept_step > 0
    after = evaluate(recommender, examples, MEASURED).metrics()["ndcg@10"]
    assert after > before + 0.1
    manifest = {"split": "by_user", "domains": ["shop"]}
    save_recommender(recommender, make_shop().items, folder, manifest=manifest)
    return recommender, folder


STEPS = TrainSettings(epochs=20, batch=16, learning_rate=0.05)


def test_a_recommender_without_a_backbone(tmp_path: Path) -> None:
    fresh = new_recommender(None, recommender_settings({"kind": "walk", "width": 16}), seed=5)
    trained, folder = published(fresh, tmp_path / "walk", steps=STEPS)
    loaded = weft.load_recommender(folder)
    assert isinstance(loaded.recommender, Walk) and loaded.recommender.settings.width == 16
    assert loaded.split == "by_user"
    histories = [np.array([3]), np.array([9, 1])]
    assert np.array_equal(loaded.recommender.score(histories), trained.score(histories))
    assert loaded.recommender.weights_hash == trained.weights_hash
    answers = loaded.ask([["i3"], ["red table", "Blue Table"], ["no such item", "i3"]], k=4)
    ranking = trained.top_k([np.array([3]), np.array([1, 9])], 4)
    for answer, items in zip(answers[:2], ranking.items.tolist(), strict=True):
        assert [one.item_id for one in answer.suggestions] == [f"i{item}" for item in items]
    assert answers[2].suggestions == answers[0].suggestions
    assert [one.matched for one in answers[2].history] == ["nothing", "item"]
    with pytest.raises(NotFoundError, match=r"'no such item' is no item .* reads no other text"):
        loaded.ask([["no such item"]])


def test_a_recommender_with_a_file_that_travels_along(tiny_bert: Path, tmp_path: Path) -> None:
    lora = LoraSettings(rank=2, targets="query-value")
    settings = recommender_settings({"kind": "coded", "codes": 6})
    fresh = new_recommender(str(tiny_bert), settings, lora=lora, seed=2, precision="float32")
    trained, folder = published(fresh, tmp_path / "coded", steps=STEPS)
    assert load_adapter(folder).saved.keys() == {"code_head.weight", "code_head.bias"}
    histories = [np.array([3]), np.array([9, 40])]
    expected = trained.score(histories)
    loaded = weft.load_recommender(folder, precision="float32")
    assert isinstance(loaded.recommender, Coded)
    np.testing.assert_allclose(loaded.recommender.score(histories), expected, atol=1e-5)
    assert len(loaded.recommend([["i3"]], k=5)[0]) == 5

    again = tmp_path / "again"
    save_recommender(read_form(folder), make_shop().items, again, manifest={"split": "by_time"})
    opened = open_recommender(again, make_shop().items, Opening("float32"))
    np.testing.assert_allclose(opened.score(histories), expected, atol=1e-5)
    assert read_form(again).split == "by_time"

    other = open_recommender(again, make_shop().items, Opening("float32"))
    assert isinstance(other, Coded) and other.weights_hash == opened.weights_hash
    other.codes = dict.fromkeys(other.codes, 0)
    assert other.weights_hash != opened.weights_hash  # codebooks decide scores as weights do

    (again / "codes.json").write_text("{}")
    with pytest.raises(MismatchError, match=r"codes\.json is not the file that weft\.json names"):
        weft.load_recommender(again)
    (again / "codes.json").unlink()
    with pytest.raises(NotFoundError, match=r"weft\.json names codes\.json, and .* no such file"):
        weft.load_recommender(again)


def test_a_module_that_a_recommender_adds_is_trained_whole(tiny_bert: Path, tmp_path: Path) -> None:
    """Also where LoRA is put on every linear of the backbone."""
    lora = LoraSettings(rank=2, targets="all-linear")
    settings = recommender_settings({"kind": "coded"})
    part = new_recommender(str(tiny_bert), settings, lora=lora, precision="float32")
    assert isinstance(part, Coded) and part.attached and "code_head" not in part.attached
    part.prepare([last_of(make_shop())])
    save_recommender(part, make_shop().items, tmp_path / "part")
    adapter = load_adapter(tmp_path / "part")
    assert adapter.saved.keys() == {"code_head.weight", "code_head.bias"}


def test_what_a_kind_cannot_do_is_one_sentence(tiny_bert: Path) -> None:
    with pytest.raises(SettingError, match="kind: 'walks' is not known; there are bi_encoder, "):
        recommender_settings({"kind": "walks"})
    with pytest.raises(SettingError, match="a coded recommender needs a backbone"):
        new_recommender(None, recommender_settings({"kind": "coded"}), lora=LoraSettings())
    with pytest.raises(SettingError, match=r"all parameters can be trained of .*, not a coded"):
        new_recommender(str(tiny_bert), recommender_settings({"kind": "coded"}))
    with pytest.raises(weft.WeftError, match="a popularity is not trained by gradients"):
        kinds.make_recommender(None, recommender_settings({"kind": "popularity"})).loss(
            last_of(make_shop())
        )


def test_what_travels_goes_along_with_a_merge(tiny_bert: Path, tmp_path: Path) -> None:
    """One set of codes for all parts: it stands beside the merged weights; two sets are refused."""
    lora = LoraSettings(rank=2, targets="query-value")
    folders = []
    for number, codes in enumerate((6, 6, 4)):
        settings = recommender_settings({"kind": "coded", "codes": codes})
        part = new_recommender(str(tiny_bert), settings, lora=lora, seed=1, precision="float32")
        part.prepare([last_of(make_shop())])
        folders.append(tmp_path / f"part{number}")
        save_recommender(part, make_shop().items, folders[-1])
    weft.merge(folders[:2], "linear", out=tmp_path / "merged")
    assert read_form(tmp_path / "merged").manifest["artifacts"].keys() == {"codes.json"}
    assert weft.load_recommender(tmp_path / "merged").recommend([["i3"]], k=2)[0]
    with pytest.raises(MismatchError, match=r"other files beside their weights \(codes\.json\)"):
        carry_files([folders[0], folders[2]], tmp_path / "merged")


def test_what_travels_goes_along_with_a_merge_of_checkpoints(
    tiny_bert: Path, tmp_path: Path
) -> None:
    folders = [tmp_path / f"part{number}" for number in range(3)]
    for folder, codes in zip(folders, ("{}", "{}", "[]"), strict=True):
        shutil.copytree(tiny_bert, folder)
        (folder / "codes.json").write_text(codes)
        hashes = file_hashes(folder, ["codes.json"])
        write_json(folder / "weft.json", {"kind": "checkpoint", "artifacts": hashes})
    with warnings.catch_warnings():
        warnings.simplefilter("error", weft.WeftNotice)  # that the file was left out
        weft.merge(folders[:2], "linear", out=tmp_path / "merged")
    assert read_form(tmp_path / "merged").manifest["artifacts"].keys() == {"codes.json"}
    assert (tmp_path / "merged" / "codes.json").read_text() == "{}"
    with pytest.raises(MismatchError, match=r"other files beside their weights \(codes\.json\)"):
        weft.merge([folders[0], folders[2]], "linear", out=tmp_path / "other")
    assert not (tmp_path / "other").exists()
