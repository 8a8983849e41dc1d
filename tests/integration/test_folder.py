"""Integrator folders: what comes back, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from integrated_recommenders import (
    CANDIDATES,
    HISTORIES,
    SETTINGS,
    adapter_of,
    integrated,
    randomise,
)
from tiny import make_shop, save_encoder

import weft
from weft.adapters import Adapter
from weft.data.folder import save_domain
from weft.errors import WeftError
from weft.evaluation.candidates import CandidateSettings
from weft.evaluation.result import Result
from weft.recommenders.integrator_folder import (
    load_integrator,
)
from weft.recommenders.saved import load_recommender, save_recommender


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder("bert", tmp_path_factory.mktemp("encoders") / "bert")


def save(encoder: Path, folder: Path, kind: Any = "x_cross", count: int = 2) -> Any:
    adapters = [adapter_of(encoder, seed) for seed in range(1, count + 1)]
    recommender = integrated(encoder, adapters, kind)
    randomise(recommender)
    manifest = {
        "backbone": recommender.backbone.identity,
        "recommender": SETTINGS.model_dump(mode="json"),
        "best": 0,
    }
    save_recommender(recommender, make_shop().items, folder, manifest=manifest)
    return recommender


@pytest.mark.parametrize(
    "kind", ["x_cross", "x_lora", {"kind": "x_lora", "form": "one_pass"}, "meteora"]
)
def test_a_folder_scores_as_what_was_saved(encoder: Path, tmp_path: Path, kind: Any) -> None:
    recommender = save(encoder, tmp_path / "one", kind)
    loaded = weft.load_recommender(tmp_path / "one", precision="float32")
    expected = recommender.score(HISTORIES, CANDIDATES)
    assert np.array_equal(loaded.recommender.score(HISTORIES, CANDIDATES), expected)
    titles = make_shop().items.titles
    items = loaded.recommend([[titles[1], titles[2], titles[3]]], k=4)[0]
    best = np.argsort(-recommender.score([np.array([1, 2, 3])])[0], kind="stable")
    expected_titles = [titles[i] for i in best.tolist() if i not in (1, 2, 3)]
    assert [one.title for one in items] == expected_titles[:4]


def test_an_adapter_twice_is_stored_once(encoder: Path, tmp_path: Path) -> None:
    one = adapter_of(encoder, 1)
    recommender = integrated(encoder, [one, one], "x_cross")
    manifest = {
        "backbone": recommender.backbone.identity,
        "recommender": SETTINGS.model_dump(mode="json"),
    }
    save_recommender(recommender, None, tmp_path / "twice", manifest=manifest)
    assert len(list((tmp_path / "twice" / "adapters").iterdir())) == 1
    assert len(load_integrator(tmp_path / "twice").adapters) == 2


def _first(folder: Path) -> Path:
    process = json.loads((folder / "integrator.json").read_text("utf-8"))
    return folder / "adapters" / process["adapters"][0]["hash"]


def _swap(folder: Path) -> None:
    one, other = (folder / "adapters").iterdir()
    shutil.rmtree(one)
    shutil.copytree(other, one)


def _say(folder: Path, **changes: Any) -> None:
    file = folder / "integrator.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | changes), "utf-8")


BROKEN: list[tuple[Callable[[Path], object], str]] = [
    (lambda f: shutil.rmtree(_first(f)), r"names the adapter .*… \(of shop 1\).* is missing"),
    (_swap, "is not the adapter that integrator.json names"),
    (lambda f: _say(f, integrator={"kind": "y_cross"}), "'y_cross' is no integrator"),
    (lambda f: _say(f, recommender={"kind": "cross_encoder", "drawn": 0}), "recommender: drawn"),
    (lambda f: _say(f, best=5), "there is no adapter 5"),
    (lambda f: _say(f, adapters=[]), "adapters"),
    (lambda f: (f / "integrator.json").write_text("[]"), "holds no JSON object"),
    (lambda f: (f / "integrator.safetensors").unlink(), "integrator.safetensors"),
    (lambda f: (f / "integrator.safetensors").write_bytes(b"short"), "integrator.safetensors"),
    (lambda f: _say(f, integrator={"kind": "x_cross", "beta": 0.1}), "weights_hash differs"),
]


@pytest.mark.parametrize(("change", "words"), BROKEN)
def test_a_damaged_folder_is_one_sentence(
    encoder: Path, tmp_path: Path, change: Callable[[Path], object], words: str
) -> None:
    save(encoder, tmp_path / "one")
    change(tmp_path / "one")
    with pytest.raises(WeftError, match=words) as error:
        weft.load_recommender(tmp_path / "one", precision="float32")
    assert str(tmp_path / "one") in str(error.value)


def test_what_does_not_belong_together_is_refused(encoder: Path, tmp_path: Path) -> None:
    both = [adapter_of(encoder, seed) for seed in (1, 2)]
    other = save_encoder("bert", tmp_path / "other", seed=1)
    with pytest.raises(WeftError, match="belongs to backbone"):
        integrated(encoder, [both[0], adapter_of(other, 1)], "x_cross")
    for kind in ("x_cross", "x_lora", "meteora"):
        with pytest.raises(WeftError, match=f"{kind} integrates two or more adapters, not 1"):
            integrated(encoder, both[:1], kind)
    with pytest.raises(WeftError, match="head trains on one adapter, not 2"):
        integrated(encoder, both, "head")
    with pytest.raises(WeftError, match="layers is 3, and the backbone has 2 blocks"):
        integrated(encoder, both, {"layers": 3})
    with pytest.raises(WeftError, match="needs a block below"):
        integrated(encoder, both, {"kind": "x_lora", "form": "one_pass", "layers": 2})
    bare = Adapter(both[1].factors, both[1].manifest)
    with pytest.raises(WeftError, match=r"adapter 2 has no 'pooler\.dense\.weight'"):
        integrated(encoder, [both[0], bare], "x_cross")
    narrow = replace(both[1], saved={**both[1].saved, "pooler.dense.weight": torch.zeros(8, 32)})
    with pytest.raises(WeftError, match=r"'pooler.dense.weight' has the shape \[8, 32\]"):
        integrated(encoder, [both[0], narrow], "x_cross")
    strange = replace(both[1], factors={"encoder.layer.9.x": next(iter(both[1].factors.values()))})
    with pytest.raises(WeftError, match=r"'encoder.layer.9.x' that the backbone lacks"):
        integrated(encoder, [both[0], strange], "x_cross")


def test_the_command_line_takes_an_integrator_wherever_it_takes_an_adapter(
    encoder: Path, tmp_path: Path
) -> None:
    save(encoder, tmp_path / "one")
    save_domain(make_shop(), tmp_path / "shop")

    def call(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "weft.cli.main", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    model = ("--model", tmp_path / "one")
    process = call("recommend", *model, "--history", "red table", "-k", 3, "--json")
    assert process.returncode == 0, process.stderr
    ranked = load_recommender(tmp_path / "one").recommend([["red table"]], k=3)[0]
    assert [one["title"] for one in json.loads(process.stdout)["items"]] == [
        one.title for one in ranked
    ]

    where = ("--domain", tmp_path / "shop", "--drawn", 9, "--by", "popularity")
    process = call("evaluate", *model, *where, "--split", "by_user", "--out", tmp_path / "result")
    assert process.returncode == 0, process.stderr
    result = Result.load(tmp_path / "result")
    assert result.protocol.split == "by_user 3:1:1, last targets, seed 0"
    assert result.protocol.candidates == CandidateSettings(drawn=9, by="popularity")
    assert f"{result.metrics()['hit@1']:.4f}" in process.stdout and not result.protocol.full

    for wrong, words in (
        (("--split", "by_month"), "leave_one_out, by_user and global_time are"),
        (("--by", "luck"), "candidates.by"),
    ):
        refused = call("evaluate", *model, *where, *wrong, "--out", tmp_path / "no")
        assert refused.returncode == 2 and words in refused.stderr
        assert len(refused.stderr.splitlines()) == 1 and not (tmp_path / "no").exists()
    shutil.rmtree(_first(tmp_path / "one"))
    refused = call("recommend", *model, "--history", "red table")
    assert refused.returncode == 2 and "is missing" in refused.stderr
