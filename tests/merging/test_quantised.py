"""Codes and scales of quantised weights are never merged apart, however they are declared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from weft.errors import WeftError
from weft.merging.checkpoints.quantised import check_plain
from weft.merging.engine.source import Memory
from weft.merging.merge import merge

F8 = torch.float8_e4m3fn
Q = "model.layers.0.q_proj"


def ones(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.ones(shape, dtype=torch.float32).to(dtype)


CODED: dict[str, tuple[dict[str, Tensor], str, str]] = {
    "ModelOpt, DeepSeek": (
        {f"{Q}.weight": ones(4, 4, dtype=F8), f"{Q}.weight_scale_inv": ones(1, 1)},
        f"{Q}.weight",
        f"'{Q}.weight_scale_inv'",
    ),
    "compressed-tensors float8": (
        {
            f"{Q}.weight": ones(4, 4, dtype=F8),
            f"{Q}.weight_scale": ones(4, 1),
            f"{Q}.input_scale": ones(1),
        },
        f"{Q}.weight",
        f"'{Q}.weight_scale'",
    ),
    "float8 beside activations' scale alone": (
        {f"{Q}.weight": ones(4, 4, dtype=F8), f"{Q}.input_scale": ones(1)},
        f"{Q}.weight",
        f"'{Q}.input_scale'",
    ),
    "compressed-tensors packed": (
        {
            f"{Q}.weight_packed": ones(4, 1, dtype=torch.int32),
            f"{Q}.weight_scale": ones(4, 1),
            f"{Q}.weight_shape": torch.tensor([4, 8]),
        },
        f"{Q}.weight_packed",
        f"'{Q}.weight_scale'",
    ),
    "GPTQ": (
        {
            f"{Q}.qweight": ones(1, 4, dtype=torch.int32),
            f"{Q}.qzeros": ones(1, 1, dtype=torch.int32),
            f"{Q}.scales": ones(1, 4),
            f"{Q}.g_idx": ones(8, dtype=torch.int32),
        },
        f"{Q}.qweight",
        f"'{Q}.",
    ),
    "bitsandbytes nf4": (
        {
            f"{Q}.weight": ones(8, 1, dtype=torch.uint8),
            f"{Q}.weight.absmax": ones(1),
            f"{Q}.weight.quant_map": ones(16),
            f"{Q}.weight.quant_state.bitsandbytes__nf4": ones(9, dtype=torch.uint8),
        },
        f"{Q}.weight",
        f"'{Q}.weight.absmax'",
    ),
    "bitsandbytes nf4 stored as bfloat16": (
        {
            f"{Q}.weight": ones(4, 1, dtype=torch.bfloat16),
            f"{Q}.weight.absmax": ones(1),
            f"{Q}.weight.quant_map": ones(16),
        },
        f"{Q}.weight",
        f"'{Q}.weight.absmax'",
    ),
    "LLM.int8": (
        {f"{Q}.weight": ones(4, 4, dtype=torch.int8), f"{Q}.SCB": ones(4)},
        f"{Q}.weight",
        f"'{Q}.SCB'",
    ),
    "MXFP4": (
        {
            "mlp.experts.down_proj_blocks": ones(2, 4, 1, 16, dtype=torch.uint8),
            "mlp.experts.down_proj_scales": ones(2, 4, 1, dtype=torch.uint8),
        },
        "mlp.experts.down_proj_blocks",
        "'mlp.experts.down_proj_scales'",
    ),
    "HQQ": (
        {
            f"{Q}.W_q": ones(4, 4, dtype=torch.uint8),
            f"{Q}.scale": ones(4, 1),
            f"{Q}.zero": ones(4, 1),
        },
        f"{Q}.W_q",
        f"'{Q}.scale'",
    ),
    "quanto": (
        {f"{Q}.weight._data": ones(4, 4, dtype=torch.int8), f"{Q}.weight._scale": ones(4, 1)},
        f"{Q}.weight._",
        "",
    ),
    "AQLM": (
        {
            f"{Q}.codes": ones(4, 1, 2, dtype=torch.int16),
            f"{Q}.codebooks": ones(2, 256, 1, 8),
            f"{Q}.scales": ones(4, 1, 1, 1),
        },
        f"{Q}.codes",
        f"'{Q}.codebooks'",
    ),
    "packed without any scale": ({f"{Q}.weight": ones(18, dtype=torch.uint8)}, f"{Q}.weight", ""),
    "scales of an exponent alone": (
        {f"{Q}.weight_s": ones(4, dtype=torch.float8_e8m0fnu)},
        f"{Q}.weight_s",
        "scales",
    ),
    "scales whose codes are elsewhere": ({f"{Q}.weight_scale": ones(1)}, f"{Q}.weight_scale", ""),
}


@pytest.mark.parametrize("kind", CODED)
def test_codes_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    tensors, name, beside = CODED[kind]
    whole = {**tensors, "model.norm.weight": ones(4)}
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        save_file(whole, tmp_path / folder / "model.safetensors")
    with pytest.raises(WeftError) as error:
        merge([tmp_path / "a", tmp_path / "b"], out=tmp_path / "out")
    said = str(error.value)
    assert said.startswith(f"tensor '{name}") and "of a (model.safetensors) is of quantised" in said
    assert f"mean nothing without {beside}" in said
    assert not (tmp_path / "out").exists()
    with pytest.raises(WeftError, match="is of quantised weights"):  # a file by itself, and a base
        merge(
            [whole], "task_arithmetic", base=tmp_path / "b" / "model.safetensors", dtype="float32"
        )


@pytest.mark.parametrize(
    ("file", "values", "words"),
    [
        ("config.json", {"quantization_config": {"bits": 4}}, r"a is quantised \(quantization_c"),
        (
            "config.json",
            {"text_config": {"quantization_config": {"bits": 4}}},
            r"a is quantised \(quantization_config\)",
        ),
        ("config.json", {"compression_config": {"format": "x"}}, r"\(compression_config\)"),
        ("hf_quant_config.json", {"quantization": {}}, r"\(hf_quant_config.json, of ModelOpt\)"),
        ("quantize_config.json", {"bits": 4}, r"\(quantize_config.json, of GPTQ\)"),
    ],
)
def test_a_declaration_alone_is_enough(
    file: str, values: dict[str, Any], words: str, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_file({"w": ones(4, 4)}, tmp_path / name / "model.safetensors")
    (tmp_path / "a" / file).write_text(json.dumps(values))
    for given in (tmp_path / "a", tmp_path / "a" / "model.safetensors"):
        with pytest.raises(WeftError, match=words.replace("a is", ".* is")):
            merge([given, tmp_path / "b"], out=tmp_path / "out")


PLAIN: list[dict[str, Tensor]] = [
    {"bert.embeddings.position_ids": torch.arange(4)[None], "w.weight": ones(4)},
    {"bn.num_batches_tracked": torch.tensor(3), "bn.weight": ones(4), "bn.running_mean": ones(4)},
    {"h.0.attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.bool), "h.0.attn.weight": ones(4)},
    {"h.0.attn.bias": ones(1, 1, 4, 4, dtype=torch.uint8), "h.0.attn.c_attn.weight": ones(4)},
    {"conv.weight_g": ones(4, 1), "conv.weight_v": ones(4, 4)},
    {"conv.parametrizations.weight.original0": ones(4, 1), "conv.bias": ones(4)},
    {"logit_scale": torch.tensor(2.0), "norm.scale": ones(4), "layer_scale.gamma": ones(4)},
    {"relative_position_index": torch.arange(4), "text.scale": ones(4), "w.weight": ones(4)},
    {
        "block.layer_scales.0": ones(4),
        "q_norm.weight": ones(4),
        "rescale.zero_conv.weight": ones(4),
    },
]


@pytest.mark.parametrize("tensors", PLAIN, ids=lambda one: next(iter(one)))
def test_plain_models_are_plain(tensors: dict[str, Tensor]) -> None:
    check_plain(Memory("m", tensors))
    merged = merge([tensors, tensors], "linear", [0.5, 0.5])
    assert isinstance(merged, dict)
    for name, tensor in tensors.items():
        torch.testing.assert_close(merged[name], tensor)


def test_plain_float8_needs_a_dtype_for_the_result(tmp_path: Path) -> None:
    parts = [{"w": torch.tensor([1.0, 2.0]).to(F8)}, {"w": torch.tensor([2.0, 2.5]).to(F8)}]
    with pytest.raises(WeftError) as error:
        merge(parts, "linear", [0.5, 0.5])
    assert str(error.value) == (
        "tensor 'w' of part 1 is float8_e4m3fn, with no scale beside it: say in which dtype the "
        "result is stored (--dtype bfloat16)"
    )
    merged = merge(parts, "linear", [0.5, 0.5], dtype="float32")
    assert isinstance(merged, dict) and merged["w"].tolist() == [1.5, 2.25]
