"""`weft inspect` as a person meets it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from weft.adapters import Adapter, Factors, save_adapter
from weft.cli.main import main


def save_part(folder: Path, seed: int, rank: int = 2, fingerprint: str = "f") -> Path:
    random = torch.Generator().manual_seed(seed)
    factors = {
        f"layer.{n}.query": Factors(
            torch.randn(rank, 4, generator=random), torch.randn(4, rank, generator=random), 1.0
        )
        for n in (0, 1)
    }
    backbone = {"name": "tiny", "fingerprint": fingerprint * 64}
    manifest = {"backbone": backbone, "domains": [folder.name], "merge": {"method": "linear"}}
    folder.parent.mkdir(parents=True, exist_ok=True)
    save_adapter(Adapter(factors, manifest), folder)
    return folder


def save_model(folder: Path, seed: int, dtype: torch.dtype = torch.float32) -> Path:
    random = torch.Generator().manual_seed(seed)
    names = ("embeddings.weight", "layer.0.query.weight", "layer.1.query.weight")
    tensors = {name: torch.randn(4, 4, generator=random).to(dtype) for name in names}
    folder.mkdir(parents=True)
    save_file(tensors | {"positions": torch.arange(3)}, folder / "model.safetensors")
    config = {"model_type": "bert", "hidden_size": 4, "transformers_version": "5"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run `weft inspect`; returns what it prints."""

    def call(*arguments: str | Path, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["weft", "inspect", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "100")
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capfd.readouterr()
        assert (stopped.value.code or 0) == code, err
        if code:
            assert out == "" and err.startswith("weft: ") and len(err.strip().splitlines()) == 1
        return err if code else out

    return call


Run = Callable[..., str]


def test_one_adapter_is_described(run: Run, tmp_path: Path) -> None:
    part = save_part(tmp_path / "books", 1)
    said = json.loads(run(part, "--json"))
    assert said["domains"] == ["books"] and said["merge"] == {"method": "linear"}
    assert (said["modules"], said["ranks"], said["parameters"]) == (2, [2], 32)
    text = run(part)
    assert "parameters     32" in text and "ranks          2\n" in text
    assert "\nmerge\n  method: linear\n" in text


def test_one_checkpoint_is_described(run: Run, tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", 1, torch.bfloat16)
    (model / "weft.json").write_text('{"merge": {"method": "ties"}, "tensors": "not this"}')
    said: dict[str, Any] = json.loads(run(model, "--json"))
    assert (said["tensors"], said["parameters"], said["bytes"]) == (4, 51, 96 + 24)
    assert said["dtypes"] == {"bfloat16": 48, "int64": 3}
    size = (model / "model.safetensors").stat().st_size
    assert said["files"] == {"model.safetensors": size}
    assert said["config"] == {"model_type": "bert", "hidden_size": 4}
    assert said["merge"] == {"method": "ties"}
    assert "\ndtypes\n  int64: 3\n  bfloat16: 48\n" in run(model / "model.safetensors")


def test_adapters_are_compared_in_tables_and_as_json(run: Run, tmp_path: Path) -> None:
    parts = [save_part(tmp_path / name, k, 2 + k) for k, name in enumerate(("books", "films"))]
    said = json.loads(run(*parts, "--json"))
    assert said["labels"] == ["books", "films"] and said["adapters"]
    assert [row["name"] for row in said["layers"]] == ["block 0", "block 1"]
    assert len(said["angles"]) == 2 and isinstance(said["hints"], list)
    text = run(*parts)
    for value in said["whole"]["norms"]:
        assert f"{value:.4g}" in text
    cosine = f"{said['whole']['cosines'][0][1]:.3f}".replace("-", "−")
    assert cosine in text and "1  books" in text and "block 1" in text and "query" in text


def test_checkpoints_are_compared_with_their_base(run: Run, tmp_path: Path) -> None:
    base, a, b = (save_model(tmp_path / name, k) for k, name in enumerate(("base", "a", "b")))
    page = tmp_path / "pages" / "page.html"
    text = run(a, b, "--base", base, "--html", page)
    assert f"wrote {page}" in text.replace("\n", "") and "embeddings" in text
    assert "Cosine of task vectors" in page.read_text("utf-8")
    said = json.loads(run(a, "--base", base, "--json"))
    assert said["whole"]["elements"] == 48 and len(said["whole"]["norms"]) == 1
    adapter = save_part(tmp_path / "adapter", 5)
    mixed = json.loads(run(a, adapter, "--base", base, "--json"))
    alone = json.loads(run(adapter, save_part(tmp_path / "other", 6), "--json"))
    assert mixed["whole"]["norms"][0] == said["whole"]["norms"][0]
    assert mixed["whole"]["norms"][1] == pytest.approx(alone["whole"]["norms"][0], rel=1e-5)


def test_parts_of_one_name_are_told_apart(run: Run, tmp_path: Path) -> None:
    parts = [save_part(tmp_path / run_ / "adapter", k) for k, run_ in enumerate(("one", "two"))]
    labels = json.loads(run(*parts, "--json"))["labels"]
    assert labels == ["adapter (one/adapter)", "adapter (two/adapter)"]
    for part, domains in zip(parts, ('["gifts", "lab"]', "[]"), strict=True):
        text = (part / "weft.json").read_text()
        (part / "weft.json").write_text(text.replace('["adapter"]', domains, 1))
        manifest = json.loads((part / "weft.json").read_text())
        (part / "weft.json").write_text(json.dumps(manifest | {"domains": json.loads(domains)}))
    # Domains say what a part is; a folder's name only where there are none.
    assert json.loads(run(*parts, "--json"))["labels"] == ["gifts+lab", "adapter"]


def test_what_cannot_be_inspected_is_one_sentence(run: Run, tmp_path: Path) -> None:
    part, model = save_part(tmp_path / "part", 1), save_model(tmp_path / "model", 1)
    other = save_part(tmp_path / "other", 2, fingerprint="e")
    nothing, page = tmp_path / "nothing", tmp_path / "page.html"
    assert "is not an adapter folder or a checkpoint: it does not" in run(nothing, code=2)
    assert "nothing is not an adapter folder" in run(part, nothing, code=2)
    assert "name the base that they were trained from" in run(
        model, model / "model.safetensors", code=2
    )
    assert "to compare them, name the base of both" in run(part, model, "--html", page, code=2)
    assert "an adapter's ΔW needs none" in run(part, "--base", model, code=2)
    assert "part belongs to backbone tiny (ffffffffffff…), other" in run(part, other, code=2)
    assert "is named twice" in run(part, part, code=2)
    assert "is a folder; name a file" in run(part, "--html", tmp_path, code=2)
    assert not page.exists()
