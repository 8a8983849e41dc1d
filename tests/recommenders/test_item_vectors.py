"""Item vectors that are kept: the same bits as fresh ones, and never another's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny import make_shop

from weft.adapters import LoraSettings, from_attached
from weft.backbones import load_backbone
from weft.data.domain import Catalogue
from weft.recommenders import item_vectors
from weft.recommenders.equipped import LoraBackbone
from weft.recommenders.item_vectors import read_vectors, write_vectors
from weft.recommenders.saved import load_recommender, save_recommender
from weft.recommenders.text.bi_encoder import BiEncoder, BiEncoderSettings

HISTORY = [["red lamp", "blue mug"]]


@pytest.fixture
def folder(tiny_bert: Path, tmp_path: Path) -> Path:
    backbone = load_backbone(str(tiny_bert), precision="float32")
    settings = BiEncoderSettings(history_tokens=40)
    recommender = BiEncoder(LoraBackbone(backbone, LoraSettings(rank=2, alpha=4)), settings)
    manifest = {"backbone": backbone.identity, "recommender": settings.model_dump(mode="json")}
    adapter = from_attached(recommender.attached, manifest)
    save_recommender(adapter, make_shop().items, tmp_path / "model")
    return tmp_path / "model"


class Asked:
    """A recommender's folder, opened anew each time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.computed = folder, 0
        self.progress: list[tuple[int, int]] = []

    def __call__(self, items: Path | None = None, **options: Any) -> list[tuple[str, float]]:
        def progress(done: int, total: int) -> None:
            self.computed += done == 0
            self.progress.append((done, total))

        loaded = load_recommender(self.folder, items, progress=progress, **options)
        return [(one.item_id, one.score) for one in loaded.recommend(HISTORY, k=48)[0]]

    @property
    def files(self) -> list[Path]:
        return sorted((self.folder / ".vectors").iterdir())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_kept_vectors_change_no_bit(folder: Path, precision: Any) -> None:
    asked = Asked(folder)
    fresh = asked(precision=precision)
    assert asked.computed == 1
    assert asked.progress[0] == (0, 48) and asked.progress[-1] == (48, 48)
    assert asked(precision=precision) == fresh and asked.computed == 1
    asked.files[0].unlink()
    assert asked(precision=precision) == fresh and asked.computed == 2


def test_damaged_vectors_are_made_again(folder: Path) -> None:
    asked = Asked(folder)
    fresh = asked(precision="float32")
    file = asked.files[0]
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    for times, content in enumerate([bytes(flipped), whole[:-4], b"", b"{}"], start=2):
        file.write_bytes(content)
        assert asked(precision="float32") == fresh and asked.computed == times
        assert file.read_bytes() == whole and asked.files == [file]


def test_other_precision_catalogue_or_library_is_other_vectors(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(folder)
    asked(precision="float32")
    asked(precision="bfloat16")
    (tmp_path / "other.csv").write_text("item_id,title\n1,red mug\n2,blue clock\n")
    assert [one for one, _ in asked(tmp_path / "other.csv", precision="float32")] != []
    monkeypatch.setattr("weft.recommenders.text.bi_encoder.computed_by", lambda: ["another torch"])
    asked(precision="float32")
    assert asked.computed == 4 and len(asked.files) == 4


def test_vectors_of_another_shape_are_not_taken(tmp_path: Path) -> None:
    vectors = np.arange(12, dtype=np.float32).reshape(4, 3)
    file = tmp_path / "v" / "x.safetensors"
    assert write_vectors(file, vectors) is None
    kept = read_vectors(file, 4)
    assert kept is not None and np.array_equal(kept, vectors)
    assert read_vectors(file, 5) is None and read_vectors(tmp_path / "none", 4) is None
    save_file(load_file(file), file)  # without its hash
    assert read_vectors(file, 4) is None


def test_a_folder_that_keeps_nothing_says_so(folder: Path) -> None:
    (folder / ".vectors").write_text("a file, so no folder can be made")
    answer = load_recommender(folder, precision="float32").ask(HISTORY, k=3)[0]
    assert any(
        "item vectors can't be stored, so they are computed each time" in n for n in answer.notes
    )
    assert item_vectors.computed_by()[1]


def test_a_catalogue_changed_in_one_title_is_another(folder: Path) -> None:
    asked = Asked(folder)
    asked(precision="float32")
    frame = make_shop().items.frame
    changed = frame.with_columns(title=frame["title"].replace("red mug", "amber rug no 2"))
    Catalogue(changed).frame.write_parquet(folder / "items.parquet")
    asked(precision="float32")
    assert asked.computed == 2
