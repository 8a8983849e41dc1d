"""`weft backbone pretrain`: a backbone out of titles, the same bits after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from weft.backbones import load_backbone
from weft.cli.main import app
from weft.data.folder import save_domain
from weft.data.mall import mall
from weft.errors import WeftError
from weft.pretraining.backbone import pretrain_backbone
from weft.pretraining.recipe import load_pretrain_recipe

RECIPE = {
    "catalogues": ["home", "toys"],
    "shape": {"hidden": 32, "layers": 2, "heads": 2, "intermediate": 48, "vocabulary": 400, "window": 256},
    "corpus": {"held_out": 0.2, "candidates": [2, 4]},
    "train": {"tokens": 20000, "block": 64, "batch": 4, "checkpoint_every": 5, "learning_rate": 0.01},
    "seed": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, domain in mall(users=20, items=60).items():
        save_domain(domain, folder / name)
    return folder


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def test_a_backbone_that_loads_and_has_learned(data: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "backbone"
    result = pretrain_backbone(load_pretrain_recipe(recipe), out, data=data)
    assert result.perplexity < 0.5 * result.perplexity_before
    backbone = load_backbone(str(out), head="causal")
    assert sum(p.numel() for p in backbone.model.parameters()) == result.parameters
    assert backbone.tokenizer.chat_template
    title = "Oak Toy Train, 2-Pack"
    assert backbone.tokenizer.decode(backbone.tokenizer.encode(title)) == title
    manifest = json.loads((out / "weft.json").read_text())
    assert manifest["perplexity"] == result.perplexity and manifest["recipe"]["catalogues"] == [
        "home",
        "toys",
    ]
    assert f"{result.perplexity:.2f}" in (out / "README.md").read_text()
    assert not (out / "checkpoints").exists()


def test_killed_it_goes_on_to_the_same_bits(data: Path, recipe: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    pretrain_backbone(load_pretrain_recipe(recipe), whole, data=data)
    command = [sys.executable, "-m", "weft.cli.main", "backbone", "pretrain", str(recipe)]
    command += ["--data", str(data), "-o", str(killed), "--threads", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    assert process.stderr is not None
    for line in process.stderr:  # a line every twentieth of the way, the third behind a checkpoint
        if line.startswith("step 12 "):
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    assert not killed.exists()
    assert list(tmp_path.glob(".killed*/checkpoints/checkpoint.safetensors"))
    steps: list[int] = []
    pretrain_backbone(
        load_pretrain_recipe(recipe), killed, data=data, report=lambda step, *_: steps.append(step)
    )
    assert steps[0] > 1
    for name in ("model.safetensors", "tokenizer.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    assert not list(tmp_path.glob(".killed*"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"catalogues": ["nowhere"]}, "nowhere.*does not exist"),
        ({"shape": {"hidden": 30, "heads": 4}}, "hidden 30 must be an even multiple of heads 4"),
        ({"train": {"tokens": 100, "blocks": 3}}, r"train\.blocks"),
        (
            {"train": {"block": 4096, "tokens": 9000}, "shape": {"window": 4096}},
            "held-out titles fill no block of 4096 tokens",
        ),
        ({"train": {"block": 300}}, r"shape\.window: 256 is too short: blocks have 300 tokens"),
        ({"train": {"schedule": "none"}}, r"train\.schedule"),
    ],
)
def test_bad_recipes_are_one_sentence(
    data: Path, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(RECIPE | change))
    with pytest.raises(WeftError, match=words):
        pretrain_backbone(load_pretrain_recipe(path), tmp_path / "out", data=data)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_an_existing_folder_is_left_alone(data: Path, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_text("mine")
    run = ["backbone", "pretrain", str(recipe), "--data", str(data), "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, run)
    assert isinstance(done.exception, WeftError)
    assert (tmp_path / "out" / "file").read_text() == "mine"
