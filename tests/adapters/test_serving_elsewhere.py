"""Merged adapters and folded checkpoints in plain PEFT and transformers, and what vLLM asks for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_lm import save_causal
from typer.testing import CliRunner

from weft.adapters import (
    Adapter,
    Factors,
    LoraSettings,
    PeftHeader,
    TokenRows,
    attach,
    fold_into,
    from_attached,
    save_adapter,
)
from weft.adapters.vllm import vllm_problems
from weft.backbones import load_backbone
from weft.cli.main import app
from weft.errors import WeftError
from weft.merging import merge_adapters

IDS = torch.arange(3, 40)[None]


@pytest.fixture(scope="module", params=["qwen2", "qwen3"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_causal(request.param, tmp_path_factory.mktemp("serve") / request.param)


def adapter(folder: Path, seed: int, **lora: Any) -> Adapter:
    backbone = load_backbone(str(folder), precision="float32", head="causal")
    attached = attach(backbone.model, LoraSettings(**{"rank": 4, "alpha": 8, **lora}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for linear in attached.values():
            linear.a.copy_(torch.randn(linear.a.shape, generator=generator) * 0.3)
            linear.b.copy_(torch.randn(linear.b.shape, generator=generator) * 0.3)
    return from_attached(attached, {"backbone": backbone.identity})


@pytest.fixture(scope="module")
def merged(folder: Path) -> Adapter:
    return merge_adapters([adapter(folder, 1), adapter(folder, 2)], "linear", [0.6, 0.4], rank=4)


def folded_logits(folder: Path, part: Adapter) -> torch.Tensor:
    backbone = load_backbone(str(folder), precision="float32", head="causal")
    fold_into(backbone.model, part)
    with torch.no_grad():
        return backbone.model(input_ids=IDS).logits  # type: ignore[no-any-return]


def test_a_merged_adapter_in_plain_peft(folder: Path, merged: Adapter, tmp_path: Path) -> None:
    from peft import PeftModel, PeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    save_adapter(merged, tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    before = plain(input_ids=IDS).logits
    model = PeftModel.from_pretrained(plain, tmp_path / "merged")
    assert isinstance(model, PeftModelForCausalLM)
    with torch.no_grad():
        found = model.eval()(input_ids=IDS).logits
    assert (found - before).abs().max() > 0.1
    torch.testing.assert_close(found, folded_logits(folder, merged), atol=1e-4, rtol=1e-4)
    assert vllm_problems(tmp_path / "merged", 8) == []


def test_a_folded_checkpoint_in_plain_transformers(
    folder: Path, merged: Adapter, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    save_adapter(merged, tmp_path / "merged")
    done = CliRunner().invoke(app, ["fold", str(tmp_path / "merged"), "-o", str(tmp_path / "full")])
    assert done.exit_code == 0, done.output
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "full", dtype=torch.float32)
    with torch.no_grad():
        found = model.eval()(input_ids=IDS).logits
    torch.testing.assert_close(found, folded_logits(folder, merged), atol=1e-4, rtol=1e-4)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight  # still tied
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "full")
    assert tokenizer.chat_template and tokenizer("Red mug")["input_ids"]


def test_folding_onto_another_backbone_is_refused(
    folder: Path, merged: Adapter, tmp_path: Path
) -> None:
    other = save_causal("qwen2", tmp_path / "other", seed=5)
    save_adapter(merged, tmp_path / "merged")
    run = ["fold", str(tmp_path / "merged"), "--base", str(other), "-o", str(tmp_path / "full")]
    done = CliRunner().invoke(app, run)
    assert isinstance(done.exception, WeftError) and "belongs to backbone" in str(done.exception)
    assert not (tmp_path / "full").exists()


# --- vLLM


def problems(part: Adapter, folder: Path, rank: int = 8, **config: Any) -> str:
    save_adapter(part, folder)
    said = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(said | config))
    return "; ".join(vllm_problems(folder, rank))


def test_what_vllm_would_not_load(folder: Path, merged: Adapter, tmp_path: Path) -> None:
    wide = merge_adapters([adapter(folder, 1), adapter(folder, 2)], "linear", [0.5, 0.5])
    assert "rank is 8, above the limit of 1: serve it with --max-lora-rank 8" in problems(
        wide, tmp_path / "wide", 1
    )
    saved = Adapter(merged.factors, merged.manifest, {"model.norm.weight": torch.ones(32)})
    assert "modules_to_save" in problems(saved, tmp_path / "saved")
    name, factors = next(iter(merged.factors.items()))
    header = PeftHeader(bias="lora_only", modules_to_save=())
    biased = replace(merged, saved={f"{name}.bias": torch.ones(32)}, peft=header)
    assert "trained biases" in problems(biased, tmp_path / "bias")
    rows = {"model.embed_tokens": TokenRows((3, 1), torch.ones(2, 32))}
    assert "trainable_token_indices" in problems(replace(merged, tokens=rows), tmp_path / "rows")
    head = Adapter({**merged.factors, "lm_head": factors}, merged.manifest)
    assert "no adapter on the module 'lm_head'" in problems(head, tmp_path / "head")
    louder = Factors(factors.a, factors.b, factors.scaling * 3)
    uneven = Adapter({**merged.factors, name: louder}, merged.manifest)
    assert "is scaled by" in problems(uneven, tmp_path / "uneven")
    with pytest.raises(WeftError, match="--max-lora-rank is one of 1, 8, 16"):
        vllm_problems(tmp_path / "wide", 17)


def test_ranks_that_differ_with_one_scaling_are_fine(folder: Path, tmp_path: Path) -> None:
    """vLLM takes each module's rank from its tensors, and the scaling from r and lora_alpha."""
    part = adapter(folder, 1)
    factors = dict(part.factors)
    name, first = next(iter(factors.items()))
    factors[name] = Factors(first.a[:2], first.b[:, :2], first.scaling)
    assert problems(Adapter(factors, part.manifest), tmp_path / "ranks") == ""


def test_the_command_line_says_so(merged: Adapter, tmp_path: Path) -> None:
    save_adapter(merged, tmp_path / "merged")
    good = CliRunner().invoke(app, ["inspect", str(tmp_path / "merged"), "--vllm", "8"])
    assert good.exit_code == 0 and "vLLM can serve it" in good.output
    bad = CliRunner().invoke(app, ["inspect", str(tmp_path / "merged"), "--vllm", "1"])
    assert isinstance(bad.exception, WeftError) and "above the limit of 1" in str(bad.exception)
