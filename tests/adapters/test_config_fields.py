"""Every entry that PEFT's LoRA configuration can have is known: read, harmless or refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from weft.adapters import load_adapter
from weft.adapters.config_fields import FIELDS, check_fields
from weft.errors import WeftError

PLAIN = {"peft_type": "LORA"}
# A value of each refused entry with which the weights mean something else.
OTHER: dict[str, Any] = {
    "use_dora": True,
    "lora_bias": True,
    "alora_invocation_tokens": [3, 4],
    "use_qalora": True,
    "monteclora_config": {"num_samples": 8},
    "layer_replication": [[0, 2], [1, 3]],
    "target_parameters": ["experts.up"],
    "velora_config": {"num_groups": 64},
    "use_bdlora": {"nblocks": 2},
    "arrow_config": {"top_k": 3},
    "kasa_config": {"beta": 0.1},
    "megatron_config": {"hidden_size": 8},
}


def test_the_table_has_every_entry_of_the_installed_peft() -> None:
    from peft import LoraConfig

    assert {one.name for one in dataclasses.fields(LoraConfig)} == set(FIELDS)


def test_pefts_own_defaults_pass() -> None:
    from peft import LoraConfig

    for task in (None, "CAUSAL_LM", "SEQ_CLS"):
        values = LoraConfig(r=4, task_type=task, target_modules=["q_proj"]).to_dict()
        check_fields(json.loads(json.dumps(values, default=lambda _: {})) | PLAIN)


def test_each_refused_entry_is_named() -> None:
    assert set(OTHER) == {name for name, one in FIELDS.items() if one.role == "refused"}
    for name, value in OTHER.items():
        with pytest.raises(WeftError, match=f"^{name} is not supported"):
            check_fields({**PLAIN, name: value})
        check_fields({**PLAIN, name: None})


@pytest.mark.parametrize("value", [3, "some", [1], {"a": 1}, True, 0.5])
def test_an_unknown_entry_is_refused_unless_it_is_empty(value: Any) -> None:
    with pytest.raises(WeftError, match="does not know the entry 'sparse_config'"):
        check_fields({**PLAIN, "sparse_config": value})
    for empty in (None, False, [], {}, ""):
        check_fields({**PLAIN, "sparse_config": empty})


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga"])
def test_starts_that_change_the_backbone_are_refused(start: str) -> None:
    with pytest.raises(WeftError, match=f"init_lora_weights is {start}"):
        check_fields({**PLAIN, "init_lora_weights": start})
    for plain in (True, False, "gaussian", "eva", "orthogonal"):
        check_fields({**PLAIN, "init_lora_weights": plain})


A, B = "lora_A.weight", "lora_B.weight"
PREFIX = "base_model.model."


def write(folder: Path, tensors: dict[str, torch.Tensor], **entries: Any) -> Path:
    """A PEFT adapter of two modules and rank 2, unless the entries say otherwise."""
    folder.mkdir()
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "owner/backbone",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj", "v_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config | entries))
    save_file({PREFIX + n: t for n, t in tensors.items()}, folder / "adapter_model.safetensors")
    return folder


def factors(*modules: str, rank: int = 2) -> dict[str, torch.Tensor]:
    """Factors [rank, 4] and [6, rank] of each module."""
    made: dict[str, torch.Tensor] = {}
    for module in modules or ("layers.0.q_proj", "layers.0.v_proj"):
        made |= {f"{module}.{A}": torch.ones(rank, 4), f"{module}.{B}": torch.ones(6, rank)}
    return made


ROWS = "embed_tokens.token_adapter.trainable_tokens_delta"
HEAD = {"lm_head.weight": torch.ones(9, 4)}
BIAS = {"layers.0.q_proj.base_layer.bias": torch.ones(6)}
CASES: dict[str, tuple[dict[str, torch.Tensor], dict[str, Any], str]] = {
    "no tensors": ({}, {}, "holds no tensors, so the adapter changes nothing"),
    "no factors": (HEAD, {"modules_to_save": ["lm_head"]}, "holds no LoRA factors"),
    "a declared module is not there": (
        factors("layers.0.q_proj"), {}, "has no factors of 'v_proj', which .* declares"
    ),
    "a declared layer is not there": (
        factors("layers.0.q_proj"),
        {"target_modules": ["layers.0.q_proj", "layers.1.q_proj"]},
        "has no factors of 'layers.1.q_proj'",
    ),
    "a module that is not declared": (
        factors("layers.0.q_proj", "layers.0.v_proj", "layers.0.k_proj"),
        {},
        "has factors of 'layers.0.k_proj', which .* does not declare",
    ),
    "an excluded module": (
        factors(), {"exclude_modules": ["v_proj"]}, "has factors of 'layers.0.v_proj'"
    ),
    "another layer": (
        factors("a.layers.3.q_proj", "a.layers.3.v_proj"),
        {"layers_to_transform": [1]},
        "has factors of 'a.layers.3.q_proj'",
    ),
    "a pattern that fits nothing": (
        factors(), {"target_modules": r".*\.mlp\..*"}, "has factors of 'layers.0.q_proj'"
    ),
    "another rank": (factors(), {"r": 8}, "'layers.0.q_proj' have rank 2, but .* says 8"),
    "another rank in a pattern": (
        factors(), {"rank_pattern": {"v_proj": 3}}, "'layers.0.v_proj' have rank 2, but .* says 3"
    ),
    "flat factors": (
        {f"q_proj.{A}": torch.ones(0), f"q_proj.{B}": torch.ones(0)},
        {"target_modules": ["q_proj"]},
        "'q_proj' are empty or flat, .* saved without being gathered",
    ),
    "a convolution": (
        {f"q_proj.{A}": torch.ones(2, 3, 3, 3), f"q_proj.{B}": torch.ones(6, 2, 1, 1)},
        {"target_modules": ["q_proj"]},
        "'q_proj' is a convolution",
    ),
    "an embedding's factors": (
        factors() | {"embed_tokens.lora_embedding_A": torch.ones(2, 9)},
        {},
        "'embed_tokens.lora_embedding_A' is not of plain LoRA on a linear",
    ),
    "a saved module that is not there": (
        factors(), {"modules_to_save": ["lm_head"]}, "has no tensors of 'lm_head', which"
    ),
    "a tensor that is not declared": (
        factors() | {"norm.weight": torch.ones(4)}, {}, "has the tensor 'norm.weight', which"
    ),
    "a bias that is not declared": (factors() | BIAS, {}, "has the tensor 'layers.0.q_proj.bias'"),
    "biases that are not there": (factors(), {"bias": "all"}, r"has no biases, .* \(bias: all\)"),
    "rows of no tokens": (
        factors() | {ROWS: torch.ones(2, 4)}, {}, "'embed_tokens', but .* does not name their"
    ),
    "rows and tokens differ": (
        factors() | {ROWS: torch.ones(2, 4)},
        {"trainable_token_indices": [1, 2, 3]},
        r"is \[2, 4\], but .* names 3 tokens",
    ),
    "a token twice": (
        factors() | {ROWS: torch.ones(2, 4)},
        {"trainable_token_indices": {"embed_tokens": [5, 5]}},
        "names token 5 twice",
    ),
    "tokens without rows": (
        factors(), {"trainable_token_indices": [1, 2]}, "has no rows of the tokens"
    ),
    "tokens below zero": (factors(), {"trainable_token_indices": [-1]}, "trainable_token_indices"),
    "a key twice": (
        factors() | BIAS | {"layers.0.q_proj.bias": torch.ones(6)},
        {"bias": "all"},
        "has 'layers.0.q_proj.bias' twice",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_file_that_its_configuration_contradicts(name: str, tmp_path: Path) -> None:
    tensors, entries, words = CASES[name]
    folder = write(tmp_path / "adapter", tensors, **entries)
    with pytest.raises(WeftError, match=words) as error:
        load_adapter(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_files_that_their_configurations_declare(tmp_path: Path) -> None:
    good: list[tuple[dict[str, torch.Tensor], dict[str, Any]]] = [
        (factors(), {}),
        (factors(), {"target_modules": r"(.*\.)?layers\.\d+\.(q|v)_proj"}),
        (factors(), {"target_modules": "all-linear"}),
        (factors(), {"target_modules": None}),
        (factors("layers.0.q_proj"), {"exclude_modules": ["v_proj"]}),
        (factors() | HEAD, {"modules_to_save": ["lm_head"]}),
        (factors() | HEAD, {}),  # a resized vocabulary is saved without being declared
        (factors() | BIAS, {"bias": "lora_only"}),
        (factors() | {"score.weight": torch.ones(3, 4)},
         {"task_type": "SEQ_CLS", "modules_to_save": ["classifier", "score"]}),
        (factors() | {ROWS: torch.ones(2, 4)},
         {"trainable_token_indices": {"embed_tokens": [1, 5], "lm_head": [1, 5]}}),
    ]  # fmt: skip
    for number, (tensors, entries) in enumerate(good):
        load_adapter(write(tmp_path / str(number), tensors, **entries))


def test_a_declared_module_that_the_backbone_lacks_is_no_fault(tmp_path: Path) -> None:
    backbone = tmp_path / "backbone"
    backbone.mkdir()
    (backbone / "config.json").write_text("{}")
    save_file({"layers.0.q_proj.weight": torch.ones(6, 4)}, backbone / "model.safetensors")
    entries = {"base_model_name_or_path": str(backbone), "bias": "all"}
    one = write(tmp_path / "one", factors("layers.0.q_proj"), **entries)
    assert list(load_adapter(one).shapes) == ["layers.0.q_proj"]
    both = {f"layers.0.{end}.weight": torch.ones(6, 4) for end in ("q_proj", "v_proj")}
    save_file(both, backbone / "model.safetensors")
    with pytest.raises(WeftError, match=r"has no factors of 'layers\.0\.v_proj'"):
        load_adapter(one)


def test_layers_that_the_backbone_has_and_the_file_lacks(tmp_path: Path) -> None:
    backbone = tmp_path / "backbone"
    backbone.mkdir()
    (backbone / "config.json").write_text("{}")
    ends = ("q_proj", "v_proj", "norm", "experts.0.q_proj")
    weights = {f"m.layers.{k}.{end}.weight": torch.ones(6, 4) for k in range(4) for end in ends}
    weights |= {f"m.layers.{k}.norm.weight": torch.ones(4) for k in range(4)}
    save_file(weights, backbone / "model.safetensors")
    modules = [f"m.layers.{k}.{end}" for k in range(3) for end in ("q_proj", "v_proj")]
    entries = {"base_model_name_or_path": str(backbone)}
    load_adapter(write(tmp_path / "whole", factors(*modules), **entries))  # layer 3 is no module
    for lost in ("m.layers.1.q_proj", "m.layers.0.v_proj"):
        left = factors(*(module for module in modules if module != lost))
        with pytest.raises(WeftError, match=f"has no factors of '{lost}', .* the backbone has"):
            load_adapter(write(tmp_path / lost, left, **entries))
    first = [module for module in modules if "layers.1" in module]
    load_adapter(write(tmp_path / "one", factors(*first), **entries, layers_to_transform=[1]))


def test_a_pickle_is_not_read_and_the_conversion_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "adapter", factors())
    (folder / "adapter_model.safetensors").unlink()
    tensors = {PREFIX + name: tensor for name, tensor in factors().items()}
    torch.save(tensors, folder / "adapter_model.bin")
    with pytest.raises(WeftError, match=r"only adapter_model\.bin: a pickle file can run") as error:
        load_adapter(folder)
    before, _, command = str(error.value).partition('python -c "')
    assert before.endswith(f"convert it: (cd {folder} && ")
    monkeypatch.chdir(folder)
    exec(command.removesuffix('")'), {})  # what it says works
    assert set(load_adapter(folder).shapes) == {"layers.0.q_proj", "layers.0.v_proj"}
