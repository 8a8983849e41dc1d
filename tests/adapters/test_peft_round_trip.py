"""A merged adapter loads wherever its parts load, and gives what the merge of the weights gives."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from peft_adapters import averaged, outputs, save_model, save_trained

from weft.adapters import load_adapter, save_adapter
from weft.merging.merge import merge

SAVED = {"modules_to_save": ["lm_head"]}


@dataclass(frozen=True)
class Case:
    model: str
    auto: str  # PEFT's class that loads the parts
    config: dict[str, Any]
    others: list[dict[str, Any]] = field(default_factory=lambda: [{}, {}])  # of each part


LM, CLASSES = "AutoPeftModelForCausalLM", "AutoPeftModelForSequenceClassification"
CAUSAL = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "o_proj"]}
GPT2 = {"task_type": "CAUSAL_LM", "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}
BERT = {"task_type": "SEQ_CLS", "target_modules": ["query", "output.dense"]}
TOKENS = "trainable_token_indices"
CASES = {
    "plain": Case("llama", LM, CAUSAL),
    "patterns": Case(
        "llama",
        LM,
        {
            "task_type": "CAUSAL_LM",
            "target_modules": r".*layers\.\d+\.(?:self_attn|mlp)\.(?:q_proj|up_proj)",
            "rank_pattern": {r"layers\.1\..*": 3, "up_proj": 4},
            "alpha_pattern": {"^model.layers.0.self_attn.q_proj": 5},
            "use_rslora": True,
        },
    ),
    "some layers": Case(
        "llama",
        LM,
        {
            "task_type": "CAUSAL_LM",
            "target_modules": "all-linear",
            "exclude_modules": r".*\.down_proj",
        },
        [{}, {"target_modules": ["up_proj"], "exclude_modules": None, "layers_to_transform": [1]}],
    ),
    "all biases": Case("qwen2", LM, {**CAUSAL, "bias": "all"}),
    "own biases": Case("qwen2", LM, {**CAUSAL, "bias": "lora_only"}),
    "factors of the head": Case("llama", LM, {**CAUSAL, "target_modules": ["q_proj", "lm_head"]}),
    "head saved": Case("llama", LM, {**CAUSAL, "modules_to_save": ["lm_head"]}),
    "ends saved, tied": Case(
        "llama-tied",
        LM,
        {**CAUSAL, "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
    "ends saved, apart": Case(
        "llama-tied", LM, {**CAUSAL, "modules_to_save": ["embed_tokens", "lm_head"]}
    ),
    "tokens": Case("llama", LM, CAUSAL, [{TOKENS: [7, 3]}, {TOKENS: [3, 5, 40]}]),
    "tokens, tied": Case("qwen2", LM, CAUSAL, [{TOKENS: [7, 3]}, {}]),
    "tokens at both ends": Case(
        "llama",
        LM,
        CAUSAL,
        [{TOKENS: {"embed_tokens": [7, 3], "lm_head": [4]}}, {TOKENS: {"embed_tokens": [3]}}],
    ),
    "gpt2": Case("gpt2", LM, GPT2),
    "gpt2, tokens": Case("gpt2", LM, GPT2, [{TOKENS: [1]}, {TOKENS: [9]}]),
    "gpt2, biases": Case("gpt2", LM, {**GPT2, "bias": "all"}),
    "encoder": Case("bert", "AutoPeftModel", {"target_modules": ["query", "value"]}),
    "encoder for features": Case(
        "bert",
        "AutoPeftModelForFeatureExtraction",
        {"task_type": "FEATURE_EXTRACTION", "target_modules": ["query", "value"]},
    ),
    "encoder, tokens": Case(
        "bert", "AutoPeftModel", {"target_modules": ["query"]}, [{TOKENS: [7]}, {TOKENS: [5]}]
    ),
    "classes": Case("bert-classes", CLASSES, BERT),
    "classes, biases": Case("bert-classes", CLASSES, {**BERT, "bias": "all"}),
    "classes of roberta": Case("roberta-classes", CLASSES, BERT),
    "classes of tokens": Case(
        "bert-tokens", "AutoPeftModelForTokenClassification", {**BERT, "task_type": "TOKEN_CLS"}
    ),
    "encoder and decoder": Case(
        "t5", "AutoPeftModelForSeq2SeqLM", {"task_type": "SEQ_2_SEQ_LM", "target_modules": ["q"]}
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_what_is_merged_loads_as_its_parts_do(name: str, tmp_path: Path) -> None:
    import peft

    case = CASES[name]
    base = save_model(case.model, tmp_path / "base")
    parts = [
        save_trained(case.model, base, tmp_path / f"part-{k}", k, **{**case.config, **other})
        for k, other in enumerate(case.others, start=1)
    ]
    merge(parts, "linear", [0.7, 0.3], out=tmp_path / "merged")
    auto = getattr(peft, case.auto)
    more = {"num_labels": 3} if "classes" in case.model or "tokens" in case.model else {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = auto.from_pretrained(tmp_path / "merged", dtype=torch.float32, **more)
    assert not [str(one.message) for one in caught if "missing" in str(one.message).lower()]
    expected = outputs(averaged(case.model, base, parts, [0.7, 0.3]))
    torch.testing.assert_close(outputs(found), expected, rtol=2e-4, atol=2e-4)
    assert expected.std() > 0.1
    for key in ("task_type", "auto_mapping", "bias"):
        said = [json.loads((p / "adapter_config.json").read_text())[key] for p in parts]
        assert json.loads((tmp_path / "merged" / "adapter_config.json").read_text())[key] == said[0]
    again = load_adapter(tmp_path / "merged")  # and once more through weft
    save_adapter(again, tmp_path / "again")
    assert load_adapter(tmp_path / "again").weights_hash == again.weights_hash
