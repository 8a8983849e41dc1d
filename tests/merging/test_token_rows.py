"""Rows of embeddings that adapters train alone are merged token by token."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft_adapters import VOCABULARY, load_model, outputs, save_model, save_trained, unloaded
from random_adapters import adapter
from safetensors.torch import load_file
from torch import Tensor

from weft.adapters import Adapter, TokenRows, load_adapter, save_adapter
from weft.errors import WeftError
from weft.merging import merge_adapters
from weft.merging.engine.source import Memory
from weft.merging.merge import merge

BASE = torch.arange(40.0).reshape(10, 4)
EMBED = "model.embed_tokens"


def with_rows(seed: int, *tokens: int, **more: Any) -> Adapter:
    """A part whose row of token t is the backbone's plus 100 · seed."""
    rows = TokenRows(tokens, BASE[list(tokens)] + 100 * seed)
    return replace(adapter(seed), tokens={EMBED: rows}, **more)


def rows_of(part: Adapter) -> dict[int, Tensor]:
    tokens = part.tokens[EMBED]
    return dict(zip(tokens.indices, tokens.rows, strict=True))


BACKBONE = Memory("backbone", {"embed_tokens.weight": BASE, "other.weight": torch.ones(2, 2)})


def test_a_token_that_a_part_lacks_has_the_backbones_row() -> None:
    parts = [with_rows(1, 7, 3), with_rows(2, 3, 9), adapter(3)]
    merged = merge_adapters(parts, weights=[0.5, 0.3, 0.2], base=BACKBONE)
    found = rows_of(merged)
    assert list(found) == [3, 7, 9]
    torch.testing.assert_close(found[3], BASE[3] + 0.5 * 100 + 0.3 * 200)
    torch.testing.assert_close(found[7], BASE[7] + 0.5 * 100)
    torch.testing.assert_close(found[9], BASE[9] + 0.3 * 200)


def test_the_same_tokens_in_any_order_need_no_backbone_where_weights_sum_to_one() -> None:
    parts = [with_rows(1, 7, 3), with_rows(2, 3, 7)]
    found = rows_of(merge_adapters(parts, weights=[0.25, 0.75]))
    for token in (3, 7):
        torch.testing.assert_close(found[token], BASE[token] + 175)
    summed = rows_of(merge_adapters(parts, weights=[1.0, 1.0], base=BACKBONE))
    torch.testing.assert_close(summed[7], BASE[7] + 300)


@pytest.mark.parametrize("name", ["ties", "dare", "knots"])
def test_methods_on_differences_take_the_backbones_rows(name: str) -> None:
    parts = [with_rows(1, 7), with_rows(2, 7)]
    method: dict[str, Any] = {"name": name} | ({"then": "ties"} if name == "knots" else {})
    merged = merge_adapters(parts, method, [1.0, 1.0], base=BACKBONE)
    assert not torch.equal(rows_of(merged)[7], BASE[7])
    with pytest.raises(WeftError, match=r"backbone, whose rows are needed .* not on this machine"):
        merge_adapters(parts, method, [0.5, 0.5])
    if name == "ties":  # its weights are those of a mean
        whole = merge_adapters(parts, {**method, "density": 1.0}, [1.0, 1.0], base=BACKBONE)
        torch.testing.assert_close(rows_of(whole)[7], BASE[7] + 150)


def test_what_cannot_be_merged_is_one_sentence() -> None:
    with pytest.raises(
        WeftError, match=r"^token 9 of 'model\.embed_tokens' was not trained in b, "
    ):
        merge_adapters([with_rows(1, 7, 9), with_rows(2, 7)], labels=["a", "b"])
    far = replace(adapter(2), tokens={EMBED: TokenRows((12,), torch.ones(1, 4))})
    with pytest.raises(WeftError, match=r"is \[10, 4\], so it has no row for token 12"):
        merge_adapters([with_rows(1, 7), far], base=BACKBONE)
    wide = replace(adapter(2), tokens={EMBED: TokenRows((7,), torch.ones(1, 5))})
    with pytest.raises(WeftError, match=r"have 4 elements in part 1 and 5 in part 2"):
        merge_adapters([with_rows(1, 7), wide], base=BACKBONE)
    with pytest.raises(WeftError, match=r"other has no tensor 'model\.embed_tokens\.weight'"):
        merge_adapters([with_rows(1, 7), with_rows(2, 8)], base=Memory("other", {"a.weight": BASE}))


def test_rows_of_an_output_layer_that_is_tied_are_those_of_the_input() -> None:
    rows = TokenRows((4,), torch.ones(1, 4))
    parts = [replace(adapter(1), tokens={"lm_head": rows}), with_rows(2, 7)]
    merged = merge_adapters(parts, weights=[0.5, 0.5], base=BACKBONE)
    torch.testing.assert_close(merged.tokens["lm_head"].rows[0], 0.5 * BASE[4] + 0.5)


def test_rows_count_in_an_adapters_hash_and_come_back(tmp_path: Path) -> None:
    part = with_rows(1, 7, 3)
    save_adapter(part, tmp_path / "a")
    again = load_adapter(tmp_path / "a")
    assert again.weights_hash == part.weights_hash and again.tokens[EMBED].indices == (7, 3)
    hashes = {
        one.weights_hash for one in (part, with_rows(1, 3, 7), with_rows(2, 7, 3), adapter(1))
    }
    assert len(hashes) == 4
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["trainable_token_indices"] == [7, 3] and config["modules_to_save"] is None


@pytest.mark.filterwarnings("ignore")
def test_a_sum_by_other_weights_equals_the_sum_of_peft(tmp_path: Path) -> None:
    """θ_0 + Σ λ_k (θ_k - θ_0) in float64, θ_k out of PEFT, tied ends; the backbone is found by its
    name alone."""
    from peft import PeftModel

    base = save_model("qwen2", tmp_path / "base")
    config = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj"]}
    tokens = ([7, 3], [3, 40])
    parts = [
        save_trained(
            "qwen2", base, tmp_path / f"{k}", k, trainable_token_indices=tokens[k], **config
        )
        for k in (0, 1)
    ]
    merge(parts, "task_arithmetic", [0.9, 0.6], out=tmp_path / "merged")
    found = outputs(PeftModel.from_pretrained(load_model("qwen2", base), tmp_path / "merged"))
    states = [
        {n: v.double() for n, v in model.state_dict().items()}
        for model in (load_model("qwen2", base), *(unloaded("qwen2", base, p) for p in parts))
    ]
    expected = load_model("qwen2", base).double()
    expected.load_state_dict(
        {n: v + 0.9 * (states[1][n] - v) + 0.6 * (states[2][n] - v) for n, v in states[0].items()}
    )
    torch.testing.assert_close(found, outputs(expected), rtol=2e-4, atol=2e-4)
    stored = load_file(tmp_path / "merged" / "adapter_model.safetensors")
    key = f"base_model.model.{EMBED}.token_adapter.trainable_tokens_delta"
    assert stored[key].shape == (3, 16) and VOCABULARY > 40
