"""Adapters of one backbone merge whatever each of them calls it; those of two are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from weft.adapters import Adapter, Factors, load_adapter, save_adapter
from weft.artifacts.hashing import short_hashes
from weft.backbones.load import find_backbone, fingerprint_of
from weft.backbones.names import plain_name
from weft.errors import WeftError, WeftNotice
from weft.merging.comparing.folders import contrast
from weft.merging.merge import merge
from weft.merging.plan import plan_recipe
from weft.merging.recipe_file import load_merge_recipe


def peft(folder: Path, name: str, seed: int = 1) -> Path:
    """An adapter as PEFT writes it: its backbone is a name."""
    random = torch.Generator().manual_seed(seed)
    folder.mkdir()
    stem = "base_model.model.layers.0.query"
    tensors = {
        f"{stem}.lora_A.weight": torch.randn(2, 5, generator=random),
        f"{stem}.lora_B.weight": torch.randn(4, 2, generator=random),
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "base_model_name_or_path": name,
              "target_modules": ["query"]}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def trained(folder: Path, name: str, fingerprint: str, seed: int = 2) -> Path:
    """An adapter as weft writes it: with the hash of the backbone's weights."""
    random = torch.Generator().manual_seed(seed)
    factors = {
        "layers.0.query": Factors(
            torch.randn(2, 5, generator=random), torch.randn(4, 2, generator=random), 1.0
        )
    }
    manifest: dict[str, Any] = {"backbone": {"name": name, "fingerprint": fingerprint}}
    save_adapter(Adapter(factors, manifest), folder)
    return folder


def model(folder: Path, value: float = 1.0) -> Path:
    folder.mkdir(parents=True)
    save_file({"w": torch.full((2,), value)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub's cache with one model, org/model, and no network."""
    root = tmp_path / "hub"
    commit = "a" * 40
    model(root / "models--org--model" / "snapshots" / commit, 7.0)
    (root / "models--org--model" / "refs").mkdir()
    (root / "models--org--model" / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(root))
    return root / "models--org--model" / "snapshots" / commit


def backbone_of(folder: Path) -> dict[str, str]:
    return dict(load_adapter(folder).manifest["backbone"])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("org/name", "org/name/"),
        ("./models/name", "models/name"),
        ("/gone/models/name", "/gone/models//name/"),
        ("org/name", "https://huggingface.co/org/name"),
        ("org/name", "/x/hub/models--org--name/snapshots/0123abcd"),
        ("/y/models--org--name/snapshots/0123/", "/x/hub/models--org--name/snapshots/4567"),
        ("minilm", "sentence-transformers/all-MiniLM-L6-v2"),
        ("gpt2", "/x/models--gpt2/snapshots/0123"),
    ],
)
def test_names_that_mean_the_same(one: str, other: str, tmp_path: Path) -> None:
    assert plain_name(one) == plain_name(other)
    parts = [peft(tmp_path / "a", one), peft(tmp_path / "b", other, 2)]
    merge(parts, out=tmp_path / "out")
    assert backbone_of(tmp_path / "out")["name"] == one
    contrast(parts)


def test_a_link_leads_to_the_same_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(model(tmp_path / "model"))
    parts = [
        peft(tmp_path / "a", str(tmp_path / "model")),
        peft(tmp_path / "b", str(tmp_path / "link")),
    ]
    merge(parts, out=tmp_path / "out")


def test_copies_of_one_model_are_one_by_their_weights(tmp_path: Path) -> None:
    shutil.copytree(model(tmp_path / "model"), tmp_path / "copy")
    parts = [
        peft(tmp_path / "a", str(tmp_path / "model")),
        peft(tmp_path / "b", str(tmp_path / "copy")),
    ]
    merge(parts, out=tmp_path / "out")
    other = model(tmp_path / "other", 2.0)
    third = peft(tmp_path / "c", str(other))
    with pytest.raises(
        WeftError, match=r"a belongs to backbone .*, c to .*; if these are one model"
    ):
        merge([parts[0], third], out=tmp_path / "out2")


def test_a_folder_and_a_hub_name_are_compared_by_their_weights(cache: Path, tmp_path: Path) -> None:
    shutil.copytree(cache, tmp_path / "mine")
    parts = [peft(tmp_path / "a", "org/model"), peft(tmp_path / "b", str(tmp_path / "mine"))]
    merge(parts, out=tmp_path / "out")
    known = trained(tmp_path / "c", "somewhere/else", fingerprint_of(cache))
    merge([parts[0], known], out=tmp_path / "out2")
    assert backbone_of(tmp_path / "out2")["fingerprint"] == fingerprint_of(cache)


def test_a_path_into_another_cache_is_found_in_this_one(cache: Path) -> None:
    gone = "/elsewhere/models--org--model/snapshots/" + "b" * 40
    assert find_backbone(gone) == find_backbone("org/model/") == cache


def test_equal_names_of_other_weights_are_two_models(cache: Path, tmp_path: Path) -> None:
    """The name leads to a model that is here, and its hash is another one."""
    parts = [trained(tmp_path / "a", "org/model", "f" * 64), peft(tmp_path / "b", "org/model")]
    with pytest.raises(WeftError, match=r"a belongs to backbone org/model \(ffffffffffff…\), b to"):
        merge(parts, out=tmp_path / "out")


def test_a_known_hash_and_a_name_that_can_not_be_looked_up(tmp_path: Path) -> None:
    """The same name is taken for the same model; the result has the hash."""
    parts = [peft(tmp_path / "a", "gone/model"), trained(tmp_path / "b", "gone/model/", "f" * 64)]
    merge(parts, out=tmp_path / "out")
    assert backbone_of(tmp_path / "out") == {"name": "gone/model/", "fingerprint": "f" * 64}


def test_equal_hashes_count_whatever_the_names(tmp_path: Path) -> None:
    parts = [trained(tmp_path / n, f"/gone/{n}", "f" * 64, k) for k, n in enumerate("ab")]
    merge(parts, out=tmp_path / "out")


def test_one_option_states_that_names_are_one_model(tmp_path: Path) -> None:
    parts = [
        peft(tmp_path / "a", "/gone/Model-7B"),
        peft(tmp_path / "b", "unsloth/Model-7B-bnb-4bit", 2),
    ]
    with pytest.raises(WeftError) as error:
        merge(parts, out=tmp_path / "out")
    assert str(error.value) == (
        "a belongs to backbone /gone/Model-7B (known by name alone), b to unsloth/Model-7B-bnb-4bit "
        "(known by name alone); unsloth/Model-7B-bnb-4bit is the other one quantised; to merge what "
        "was trained on either, name the model that the result is for (--backbone)"
    )
    with pytest.warns(WeftNotice) as told:
        merge(parts, out=tmp_path / "out", backbone="org/Model-7B", weights=[0.5, 0.5])
    assert [str(one.message) for one in told if one.category is WeftNotice] == [
        (
            "a names the backbone /gone/Model-7B (known by name alone): taken for org/Model-7B, as you "
            "say (--backbone)"
        ),
        (
            "b names the backbone unsloth/Model-7B-bnb-4bit (known by name alone): taken for "
            "org/Model-7B, as you say (--backbone)"
        ),
    ]
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "org/Model-7B"
    manifest = json.loads((tmp_path / "out" / "weft.json").read_text())
    assert manifest["merge"]["recipe"]["backbone"] == "org/Model-7B"
    plan_recipe(load_merge_recipe(tmp_path / "out" / "weft.json")).run(tmp_path / "again")
    one, again = (load_adapter(tmp_path / name).weights_hash for name in ("out", "again"))
    assert one == again
    contrast(parts, backbone="org/Model-7B")
    with pytest.raises(WeftError, match=r"if these are one model|quantised"):
        contrast(parts)


def test_the_option_gives_the_hash_of_a_model_that_is_here(cache: Path, tmp_path: Path) -> None:
    parts = [peft(tmp_path / "a", "x/y"), trained(tmp_path / "b", "x/z", "f" * 64)]
    with pytest.raises(WeftError, match="b to x/z"):
        merge(parts, out=tmp_path / "out")
    with pytest.warns(WeftNotice, match=r"b names the backbone x/z \(ffffffffffff…\): taken for"):
        merge(parts, out=tmp_path / "out", backbone="org/model")
    assert backbone_of(tmp_path / "out") == {
        "name": "org/model", "fingerprint": fingerprint_of(cache)
    }  # fmt: skip


def test_hashes_that_look_equal_are_printed_in_full(tmp_path: Path) -> None:
    one, other = "a" * 12 + "0" * 52, "a" * 12 + "1" * 52
    assert short_hashes(one, other) == (one, other)
    assert short_hashes(one, one) == ("aaaaaaaaaaaa…", "aaaaaaaaaaaa…")
    parts = [trained(tmp_path / "a", "m", one), trained(tmp_path / "b", "m", other)]
    with pytest.raises(WeftError) as error:
        merge(parts, out=tmp_path / "out")
    assert f"m ({one}), b to m ({other})" in str(error.value)


def test_the_option_is_for_adapters(tmp_path: Path) -> None:
    with pytest.raises(WeftError, match="backbone is for adapters"):
        merge([model(tmp_path / "a"), model(tmp_path / "b")], backbone="x", out=tmp_path / "out")
