"""Files beside the weights: copied, or named with the reason why not."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from weft.adapters import Adapter, Factors, load_adapter, save_adapter
from weft.backbones.companions import companions_of
from weft.errors import WeftError, WeftNotice
from weft.merging.algebra import weights
from weft.merging.merge import merge

COPIED = (
    "generation_config.json",
    "tokenizer.model",
    "tekken.json",
    "spiece.model",
    "special_tokens_map.json",
    "merges.txt",
    "vocab.bpe",
    "chat_template.jinja",
    "additional_chat_templates/tool_use.jinja",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)
SILENT = ("LICENSE", "README.md", "pytorch_model.bin", ".gitattributes", "onnx/model.json",
          "training_args.bin", "USE_POLICY.md", "weft.json")  # fmt: skip


def write(folder: Path, value: float, files: dict[str, Any] | None = None, **config: Any) -> Path:
    folder.mkdir()
    save_file({"w": torch.full((2, 3), float(value))}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    for name, content in (files or {}).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def merged(parts: list[Path], out: Path, **options: Any) -> list[str]:
    """Merge, and give what was told."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        merge(parts, "linear", [0.5, 0.5], out=out, **options)
    return [str(one.message) for one in caught if one.category is WeftNotice]


def test_known_files_are_copied_and_documents_are_passed_over(tmp_path: Path) -> None:
    files: dict[str, Any] = dict.fromkeys(COPIED, "x") | dict.fromkeys(SILENT, "{}")
    parts = [write(tmp_path / name, k, files) for k, name in enumerate("ab")]
    out = tmp_path / "out"
    assert merged(parts, out) == []
    found = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert found == {*COPIED, "config.json", "model.safetensors", "README.md", "weft.json"}
    assert "left_out" not in json.loads((out / "weft.json").read_text())


def test_code_and_unknown_files_are_named_everywhere(tmp_path: Path) -> None:
    auto = {"AutoModel": "modeling_own.Own", "AutoTokenizer": [None, "tok.sub.Tok"],
            "AutoConfig": "someone/else--configuration.C"}  # fmt: skip
    files = {"modeling_own.py": "1", "helper.py": "2", "extra.dat": "3"}
    parts = [write(tmp_path / name, k, files, auto_map=auto) for k, name in enumerate("ab")]
    out = tmp_path / "out"
    told = merged(parts, out)
    assert told == [
        (
            "not copied from a: helper.py (code is never copied); modeling_own.py, tok/sub.py (code "
            "is never copied; config.json names it (auto_map)); extra.dat (weft does not know this "
            "file)"
        )
    ]
    manifest = json.loads((out / "weft.json").read_text())
    assert manifest["left_out"] == {
        "extra.dat": "weft does not know this file",
        "helper.py": "code is never copied",
        "modeling_own.py": "code is never copied; config.json names it (auto_map)",
        "tok/sub.py": "code is never copied; config.json names it (auto_map)",
    }
    assert r"modeling\_own.py was not copied: code is never" in (out / "README.md").read_text()
    assert not list(out.glob("*.py")) and not (out / "extra.dat").exists()


def test_a_formula_and_a_folded_adapter_tell_the_same(tmp_path: Path) -> None:
    whole = write(tmp_path / "a", 1, {"modeling_own.py": "1"})
    with pytest.warns(WeftNotice, match=r"not copied from a: modeling_own.py \(code is never"):
        (weights(whole) * 0.5).save(tmp_path / "out")


def test_files_that_differ_say_whose_they_are(tmp_path: Path) -> None:
    names = {"_name_or_path": "one", "rope_theta": 10.0, "torch_dtype": "float32"}
    one = {"generation_config.json": {"top_k": 1}, "chat_template.jinja": "1", "merges.txt": "m"}
    other = {"generation_config.json": {"top_k": 2}, "chat_template.jinja": "2", "merges.txt": "m",
             "tekken.json": "{}"}  # fmt: skip
    parts = [
        write(tmp_path / "a", 1, one, **names),
        write(tmp_path / "b", 2, other, **{**names, "_name_or_path": "two", "rope_theta": 20.0}),
    ]
    assert merged(parts, tmp_path / "out") == [
        (
            "config.json (rope_theta), generation_config.json, chat_template.jinja differ between the "
            "parts: taken from a"
        ),
        "not copied, as a has no such file: tekken.json (of b)",
    ]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["rope_theta"] == 10


MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
]


def sentence(folder: Path, value: float, dense: float) -> Path:
    write(folder, value, {"modules.json": MODULES, "1_Pooling/config.json": {"a": 1},
                          "2_Dense/config.json": {"in_features": 2}})  # fmt: skip
    save_file({"linear.weight": torch.full((2, 2), dense)}, folder / "2_Dense/model.safetensors")
    return folder


def test_a_module_with_weights_comes_along_where_it_is_the_same(tmp_path: Path) -> None:
    parts = [sentence(tmp_path / name, k, 3.0) for k, name in enumerate("ab")]
    out = tmp_path / "out"
    assert merged(parts, out) == []
    assert load_file(out / "2_Dense/model.safetensors")["linear.weight"].eq(3).all()
    assert (out / "2_Dense/config.json").exists() and (out / "1_Pooling/config.json").exists()


def test_modules_with_other_weights_are_refused(tmp_path: Path) -> None:
    parts = [sentence(tmp_path / name, k, float(k)) for k, name in enumerate("ab")]
    with pytest.raises(WeftError) as error:
        merged(parts, tmp_path / "out")
    assert str(error.value) == (
        f"{parts[0] / 'modules.json'} names 2_Dense, which has weights of its own "
        "(2_Dense/model.safetensors); those of a and b differ, and weft can't merge them"
    )
    assert not (tmp_path / "out").exists()
    plain = write(tmp_path / "c", 1)
    with pytest.raises(WeftError, match="those of a and c differ"):
        merged([parts[0], plain], tmp_path / "out")
    with pytest.raises(WeftError, match="those of a and c differ"):
        merged([plain, parts[0]], tmp_path / "out")


@pytest.mark.parametrize("place", ["../other", "/etc"])
def test_a_module_outside_the_folder_is_refused(place: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "a", 1, {"modules.json": [{"path": place}]})
    with pytest.raises(WeftError, match="which is not in the model's"):
        companions_of(folder)


def test_nothing_in_a_folder_leads_out_of_it(tmp_path: Path) -> None:
    """No pipe is opened, and no folder below the next is looked into."""
    import os

    folder = write(tmp_path / "a", 1, {"deep/x.txt": "1"})
    (folder / "deep" / "deeper").mkdir()
    (folder / "deep" / "deeper" / "tokenizer.json").write_text("{}")
    os.mkfifo(folder / "vocab.txt")
    found = companions_of(folder)
    assert found.copied == ("config.json",)
    assert found.left_out == {"deep/x.txt": "weft does not know this file"}


def test_the_tokenizer_of_an_adapter_comes_along(tmp_path: Path) -> None:
    """And its other files, as those of a checkpoint do."""
    for name, template in (("a", "1"), ("b", "2")):
        factors = {"layers.0.q": Factors(torch.ones(1, 3), torch.ones(2, 1), 1.0)}
        manifest = {"backbone": {"name": "m", "fingerprint": "f" * 64}}
        save_adapter(Adapter(factors, manifest), tmp_path / name)
        for file, text in {
            "tokenizer.json": "{}",
            "chat_template.jinja": template,
            "modeling_own.py": "",
            "optimizer.pt": "",
            "trainer_state.json": "{}",
        }.items():
            (tmp_path / name / file).write_text(text)
    out = tmp_path / "out"
    assert merged([tmp_path / "a", tmp_path / "b"], out) == [
        "not copied from a: modeling_own.py (code is never copied)",
        "chat_template.jinja differs between the parts: taken from a",
    ]
    assert {path.name for path in out.iterdir()} == {
        *("adapter_config.json", "adapter_model.safetensors", "weft.json"),
        *("tokenizer.json", "chat_template.jinja"),
    }
    assert (out / "chat_template.jinja").read_text() == "1"
    load_adapter(out)
