"""A backbone's folder is stated so that its recommenders open from wherever they are read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from weft.adapters import LoraSettings, from_attached
from weft.artifacts.atomic import read_json, write_json
from weft.backbones import load_backbone
from weft.backbones.load import named_backbone
from weft.data.mall import mall
from weft.errors import WeftError
from weft.merging.folding.fold import fold
from weft.recommenders.equipped import LoraBackbone
from weft.recommenders.saved import load_recommender, save_recommender
from weft.recommenders.text.bi_encoder import BiEncoder, BiEncoderSettings


@pytest.fixture(scope="module")
def place(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a backbone, and a recommender made while standing in it."""
    folder = tmp_path_factory.mktemp("place").resolve()
    shutil.copytree(tiny_bert, folder / "models" / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        backbone = load_backbone("models/tiny")
        domain = mall(0, users=4, items=30)["home"]
        model = BiEncoder(
            LoraBackbone(backbone, LoraSettings(rank=2)), BiEncoderSettings(), domain.items
        )
        settings = BiEncoderSettings().model_dump(mode="json")
        adapter = from_attached(
            model.attached, {"backbone": backbone.identity, "recommender": settings}
        )
        for factors in adapter.factors.values():
            factors.b.fill_(0.01)
        save_recommender(adapter, domain.items, folder / "shop")
    return folder


def test_manifests_state_the_whole_path(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = str(place / "models" / "tiny")
    assert read_json(place / "shop" / "weft.json")["backbone"]["name"] == whole
    config = read_json(place / "shop" / "adapter_config.json")
    assert config["base_model_name_or_path"] == whole
    monkeypatch.chdir("/")
    load_recommender(place / "shop")


def old(place: Path, tmp_path: Path) -> Path:
    """The recommender as earlier versions wrote it: its backbone as it was given."""
    folder = Path(shutil.copytree(place / "shop", tmp_path / "old"))
    manifest = read_json(folder / "weft.json")
    manifest["backbone"]["name"] = "models/tiny"
    write_json(folder / "weft.json", manifest)
    return folder


def test_a_relative_path_is_looked_for_here_and_beside_the_manifest(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = old(place, tmp_path)
    monkeypatch.chdir(place)
    load_recommender(folder)
    monkeypatch.chdir("/")
    for call in (load_recommender, lambda path: fold(path, tmp_path / "out")):
        with pytest.raises(WeftError) as error:
            call(folder)
        assert str(error.value).startswith(
            f"{folder / 'weft.json'} names a backbone that can't be found: there is no folder "
            f"/models/tiny and none {folder / 'models' / 'tiny'}, and "
        )
    shutil.copytree(place / "models", folder / "models")
    load_recommender(folder)
    assert fold(folder, tmp_path / "out").is_dir()


def test_a_path_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeftError, match=f"{tmp_path}/gone is no folder on this machine"):
        named_backbone(f"{tmp_path}/gone", tmp_path / "weft.json")
