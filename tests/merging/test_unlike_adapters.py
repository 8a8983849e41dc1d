"""Adapters that hold different kinds of things, take no part, or leave things unsaid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from weft.adapters import Adapter, load_adapter, save_adapter
from weft.errors import WeftError
from weft.merging.comparing.folders import contrast, describe_weights
from weft.merging.folding.fold import fold
from weft.merging.merge import merge, plan_merge
from weft.merging.plan import plan_recipe
from weft.merging.recipe_file import load_merge_recipe

PREFIX = "base_model.model."
Q = "model.layers.0.self_attn.q_proj"
NAN = float("nan")


def write(
    folder: Path,
    seed: int,
    modules: tuple[str, ...] = (Q,),
    more: dict[str, Tensor] | None = None,
    out: int = 4,
    **entries: Any,
) -> Path:
    """A PEFT adapter of rank 2 on modules [out, 5], with other tensors beside the factors."""
    random = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for module in modules:
        tensors[f"{module}.lora_A.weight"] = torch.randn(2, 5, generator=random)
        tensors[f"{module}.lora_B.weight"] = torch.randn(out, 2, generator=random)
    folder.mkdir()
    tensors |= more or {}
    save_file({PREFIX + n: t for n, t in tensors.items()}, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "/gone/model",
        "r": 2,
        "lora_alpha": 2,
        "target_modules": sorted({module.rpartition(".")[2] for module in modules}),
        **entries,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def backbone(folder: Path) -> Path:
    folder.mkdir()
    tensors = {f"{Q}.weight": torch.ones(4, 5), "lm_head.weight": torch.ones(6, 5)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 6}))
    return folder


def delta(folder: Path, module: str = Q) -> Tensor:
    return load_adapter(folder).factors[module].delta()


@pytest.mark.parametrize("swapped", [False, True])
def test_factors_of_a_module_that_another_part_saves_whole(swapped: bool, tmp_path: Path) -> None:
    """Neither may be lost: PEFT keeps the backbone's own weight beside factors of a head."""
    own = {"lm_head.base_layer.weight": torch.ones(6, 5)}
    factors = {
        "lm_head.lora_A.weight": torch.ones(2, 5),
        "lm_head.lora_B.weight": torch.ones(6, 2),
    }
    one = write(tmp_path / "one", 1, more=own | factors, target_modules=["q_proj", "lm_head"])
    other = write(
        tmp_path / "other",
        2,
        more={"lm_head.weight": torch.zeros(6, 5)},
        modules_to_save=["lm_head"],
    )
    parts = [other, one] if swapped else [one, other]
    with pytest.raises(
        WeftError, match=r"'lm_head' has factors in one and is saved whole in other: fold each"
    ):
        merge(parts, "linear", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _lame(kind: str, folder: Path) -> Path:
    """An adapter that could not take part in a merge with a plain one."""
    if kind == "other modules":
        return write(folder, 2, modules=("blocks.0.mlp",))
    if kind == "other shape":
        return write(folder, 2, out=3)
    if kind == "other task":
        return write(folder, 2, task_type="SEQ_CLS")
    if kind == "other backbone":
        return write(folder, 2, base_model_name_or_path="/gone/other")
    if kind == "head saved":
        return write(folder, 2, more={"score.weight": torch.ones(2, 5)}, modules_to_save=["score"])
    write(folder, 2)
    tensors = load_file(folder / "adapter_model.safetensors")
    new = {} if kind == "no tensors" else {n: t * NAN for n, t in tensors.items()}
    save_file(new, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize(
    "kind",
    [
        *("other modules", "other shape", "other task", "other backbone"),
        *("head saved", "no tensors", "NaN"),
    ],
)
def test_an_adapter_of_weight_0_is_not_checked(kind: str, tmp_path: Path) -> None:
    good = write(tmp_path / "good", 1, task_type="CAUSAL_LM")
    lame = _lame(kind, tmp_path / "lame")
    for parts, weights in [([good, lame], [1, 0]), ([lame, good], [0, 1])]:
        out = tmp_path / f"out-{weights[0]}"
        merge(parts, "linear", weights, out=out)
        assert torch.equal(delta(out), delta(good))
        manifest = json.loads((out / "weft.json").read_text())
        assert manifest["parents"] == [load_adapter(good).weights_hash]
        assert [one["weight"] for one in manifest["merge"]["recipe"]["parts"]] == weights
        again = tmp_path / f"again-{weights[0]}"
        plan_recipe(load_merge_recipe(out / "weft.json", print)).run(again)
        name = "adapter_model.safetensors"
        assert (again / name).read_bytes() == (out / name).read_bytes()


def test_a_vote_of_weight_0_is_a_part(tmp_path: Path) -> None:
    """Where parts of weight 0 count, they are checked."""
    good, lame = write(tmp_path / "good", 1), _lame("NaN", tmp_path / "lame")
    with pytest.raises(WeftError, match="NaN"):
        merge([good, lame], {"name": "ties", "weigh": "after"}, [1, 0])


def test_weights_that_leave_nothing(tmp_path: Path) -> None:
    parts = [write(tmp_path / f"p{k}", k) for k in (1, 2)]
    with pytest.raises(WeftError, match="every weight is 0, so the merged adapter would change"):
        merge(parts, "linear", [0, [0, 0]])


@pytest.mark.parametrize("name", [None, ""])
def test_a_backbone_that_is_not_named(name: str | None, tmp_path: Path) -> None:
    base = backbone(tmp_path / "base")
    parts = [write(tmp_path / f"p{k}", k, base_model_name_or_path=name) for k in (1, 2)]
    with pytest.raises(WeftError, match=r"p1/adapter_config.json names no backbone .* --backbone"):
        merge(parts, out=tmp_path / "out")
    merge(parts, out=tmp_path / "stated", backbone="owner/model")
    assert load_adapter(tmp_path / "stated").manifest["backbone"]["name"] == "owner/model"
    merge(parts, base=base, out=tmp_path / "based")
    assert load_adapter(tmp_path / "based").manifest["backbone"]["name"] == str(base)
    fold(parts[0], tmp_path / "folded", base=base)
    found = load_file(tmp_path / "folded" / "model.safetensors")[f"{Q}.weight"]
    torch.testing.assert_close(found, 1 + delta(tmp_path / "based") * 2 - _delta_of(parts[1]))
    assert describe_weights(parts[0])["backbone"]["name"] == "(not named)"
    assert len(contrast(parts, backbone="owner/model").labels) == 2


def _delta_of(folder: Path) -> Tensor:
    return load_adapter(folder, backbone="any").factors[Q].delta()


def test_tensors_with_the_adapters_name_in_them(tmp_path: Path) -> None:
    """A raw state_dict has `.default` where PEFT's own files have nothing."""
    head = {"lm_head.weight": torch.ones(6, 5)}
    plain = write(tmp_path / "plain", 1, more=head, modules_to_save=["lm_head"])
    raw = write(tmp_path / "raw", 1, modules_to_save=["lm_head"])
    tensors = load_file(raw / "adapter_model.safetensors")
    named = {n.replace(".weight", ".default.weight"): t for n, t in tensors.items()}
    named[PREFIX + "lm_head.modules_to_save.default.weight"] = torch.ones(6, 5)
    named[PREFIX + "lm_head.original_module.weight"] = torch.zeros(6, 5)
    save_file(named, raw / "adapter_model.safetensors")
    one, other = load_adapter(plain), load_adapter(raw)
    assert one.weights_hash == other.weights_hash
    save_file(tensors | {n: t.clone() for n, t in named.items()}, raw / "adapter_model.safetensors")
    with pytest.raises(WeftError, match=r"q_proj.lora_A.weight' twice, as "):
        load_adapter(raw)
    # An adapter's module may itself be called so.
    odd = write(tmp_path / "odd", 1, modules=("model.default.q_proj",))
    assert list(load_adapter(odd).factors) == ["model.default.q_proj"]


def test_entries_of_training_alone(tmp_path: Path) -> None:
    swift = {"lora_dtype": "bfloat16", "lorap_lr_ratio": 16.0, "lorap_emb_lr": 1e-6}
    assert torch.equal(delta(write(tmp_path / "a", 1, **swift)), delta(write(tmp_path / "b", 1)))


@pytest.mark.parametrize("how", ["config", "float8", "codes"])
def test_a_quantised_backbone_is_not_folded_into(how: str, tmp_path: Path) -> None:
    base, part = backbone(tmp_path / "base"), write(tmp_path / "part", 1)
    tensors = load_file(base / "model.safetensors")
    if how == "config":
        config = {"model_type": "llama", "quantization_config": {"load_in_4bit": True}}
        (base / "config.json").write_text(json.dumps(config))
    else:
        dtype = torch.float8_e4m3fn if how == "float8" else torch.int8
        tensors[f"{Q}.weight"] = tensors[f"{Q}.weight"].to(dtype)
        tensors[f"{Q}.weight_scale"] = torch.ones(4)
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeftError, match=r"quantised.*name the backbone as it was before"):
        fold(part, tmp_path / "out", base=base)
    assert not (tmp_path / "out").exists()


def test_rows_are_not_read_of_codes(tmp_path: Path) -> None:
    base = backbone(tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"].to(torch.float8_e4m3fn)
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    saved = {"more": {"lm_head.weight": torch.ones(6, 5)}, "modules_to_save": ["lm_head"]}
    parts = [write(tmp_path / f"p{k}", k, **saved) for k in (1, 2)]
    with pytest.raises(WeftError, match=r"'lm_head.weight' of base is float8_e4m3fn, codes of"):
        merge(parts, "task_arithmetic", [1, 1], base=base)


def test_what_is_no_adapter_is_not_folded(tmp_path: Path) -> None:
    base = backbone(tmp_path / "base")
    with pytest.raises(WeftError, match=r"base is not an adapter's folder: it has no adapter_con"):
        fold(base, tmp_path / "out")
    with pytest.raises(WeftError, match=r"or name its folder \(--base\)"):
        fold(write(tmp_path / "part", 1), tmp_path / "out")


@pytest.mark.parametrize("kind", ["other task", "head saved", "other shape"])
def test_a_plan_is_refused_for_what_the_merge_would_be(kind: str, tmp_path: Path) -> None:
    good = write(tmp_path / "good", 1, task_type="CAUSAL_LM")
    with pytest.raises(WeftError):
        plan_merge([good, _lame(kind, tmp_path / "lame")], "linear", [0.5, 0.5])


def test_a_layer_that_only_other_parts_have_factors_of(tmp_path: Path) -> None:
    """What a part declares and has in one layer is lost in the other, as other parts show."""
    names = tuple(f"model.layers.{i}.self_attn.{p}" for i in (0, 1) for p in ("q_proj", "v_proj"))
    whole = write(tmp_path / "whole", 1, modules=names)
    # target_modules has both, and layer 1 lacks one of them
    lame = write(tmp_path / "lame", 2, modules=names[:3])
    words = r"lame has no factors of 'model.layers.1.self_attn.v_proj', which its adapter_config"
    for parts in ([whole, lame], [lame, whole]):
        with pytest.raises(WeftError, match=words):
            merge(parts, "linear")
    first = write(tmp_path / "first", 3, modules=names[:2], layers_to_transform=[0])
    merged = merge([whole, first], "linear")
    assert isinstance(merged, Adapter) and set(merged.factors) == set(names)
    save_adapter(merged, tmp_path / "merged")
    merge([tmp_path / "merged", lame.with_name("first")], "linear")


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.bool])
def test_codes_in_the_place_of_numbers(dtype: torch.dtype, tmp_path: Path) -> None:
    part = write(tmp_path / "part", 1)
    tensors = load_file(part / "adapter_model.safetensors")
    tensors[f"{PREFIX}{Q}.lora_B.weight"] = torch.ones(4, 2, dtype=dtype)
    save_file(tensors, part / "adapter_model.safetensors")
    with pytest.raises(WeftError, match=r"q_proj.lora_B.weight' is .*no numbers of trained"):
        load_adapter(part)


def test_an_adapters_file_is_no_checkpoint(tmp_path: Path) -> None:
    """A and B averaged each by itself would be another change than the mean."""
    parts = [write(tmp_path / f"p{k}", k) for k in (1, 2)]
    files = [part / "adapter_model.safetensors" for part in parts]
    with pytest.raises(WeftError, match=r"p1/adapter_model.safetensors is an adapter's file"):
        merge(files, "linear", out=tmp_path / "out")
    for name in (
        "q.lora_A.weight",
        "unet_q.lora_down.weight",
        "to_q.lora.up.weight",
        "q.hada_w1_a",
    ):
        for k in range(len(files)):
            files[k] = tmp_path / f"{k}-{name}.safetensors"
            save_file({name: torch.ones(2, 3)}, files[k])
        with pytest.raises(WeftError, match="is a factor of an adapter, which means nothing"):
            merge(files, "linear", out=tmp_path / "out")


def test_the_folder_within_is_named(tmp_path: Path) -> None:
    """PEFT puts an adapter with a name into a folder of that name."""
    (tmp_path / "outer").mkdir()
    (tmp_path / "outer" / "README.md").touch()
    write(tmp_path / "outer" / "mine", 1)
    for call in (merge, contrast):
        with pytest.raises(WeftError, match=r"name a folder in it, such as .*outer/mine"):
            call([tmp_path / "outer", write(tmp_path / f"b-{call.__name__}", 2)])
    with pytest.raises(WeftError, match=r"such as .*outer/mine"):
        fold(tmp_path / "outer", tmp_path / "out")
