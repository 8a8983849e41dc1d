"""A folded checkpoint gives in plain transformers what PEFT's merge_and_unload gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft_adapters import VOCABULARY, load_model, outputs, save_model, save_trained, unloaded
from safetensors.torch import load_file, save_file
from tiny import save_tokenizer

from weft.errors import WeftError
from weft.merging.folding.config import take_tokenizer
from weft.merging.folding.fold import fold

CAUSAL = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "o_proj"]}
GPT2 = {"task_type": "CAUSAL_LM", "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}
BERT = {"task_type": "SEQ_CLS", "target_modules": ["query", "output.dense"]}
TOKENS = "trainable_token_indices"
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama", CAUSAL),
    "biases": ("qwen2", {**CAUSAL, "bias": "all"}),
    "biases of its modules": ("qwen2", {**CAUSAL, "bias": "lora_only"}),
    "conv1d": ("gpt2", GPT2),
    "conv1d with biases": ("gpt2", {**GPT2, "bias": "all"}),
    "conv1d with head": ("gpt2", {**GPT2, "target_modules": ["c_attn", "lm_head"]}),
    "tokens": ("llama", {**CAUSAL, TOKENS: [7, 3]}),
    "tokens, tied": ("qwen2", {**CAUSAL, TOKENS: [7, 3]}),
    "tokens, tied conv1d": ("gpt2", {**GPT2, TOKENS: [7, 3]}),
    "tokens at both ends": ("llama", {**CAUSAL, TOKENS: {"embed_tokens": [7], "lm_head": [4, 9]}}),
    "tokens apart": ("llama-tied", {**CAUSAL, TOKENS: {"embed_tokens": [7], "lm_head": [4, 9]}}),
    "head": ("llama", {**CAUSAL, "modules_to_save": ["lm_head"]}),
    "head, tied before": ("llama-tied", {**CAUSAL, "modules_to_save": ["lm_head"]}),
    "input, tied before": ("llama-tied", {**CAUSAL, "modules_to_save": ["embed_tokens"]}),
    "both ends apart": ("llama-tied", {**CAUSAL, "modules_to_save": ["embed_tokens", "lm_head"]}),
    "both ends tied": (
        "llama-tied",
        {**CAUSAL, "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
    "factors of a tied head": ("llama-tied", {**CAUSAL, "target_modules": ["q_proj", "lm_head"]}),
    "encoder": ("bert", {"target_modules": ["query"], "modules_to_save": ["word_embeddings"]}),
    "classes": ("bert-classes", BERT),
    "classes with biases": ("bert-classes", {**BERT, "bias": "all"}),
    "classes of roberta": ("roberta-classes", BERT),
    "encoder and decoder": ("t5", {"task_type": "SEQ_2_SEQ_LM", "target_modules": ["q", "wi"]}),
}
# Here merge_and_unload writes the change of one end into the weight that both ends share, and so
# gives another model than the adapter does; folding gives what the adapter gives.
IN_PLACE = {"tokens apart", "conv1d with head", "factors of a tied head"}
UNTIED = {
    "conv1d with head",
    "tokens apart",
    "head, tied before",
    "input, tied before",
    "both ends apart",
    "factors of a tied head",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_folded_is_what_peft_unloads(name: str, tmp_path: Path) -> None:
    from peft import PeftModel

    kind, config = CASES[name]
    base = save_model(kind, tmp_path / "base")
    adapter = save_trained(kind, base, tmp_path / "adapter", 1, **config)
    fold(adapter, tmp_path / "full", threads=1)
    found = load_model(kind, tmp_path / "full")
    expected = outputs(PeftModel.from_pretrained(load_model(kind, base), adapter))
    if name not in IN_PLACE:
        unloaded_outputs = outputs(unloaded(kind, base, adapter))
        torch.testing.assert_close(unloaded_outputs, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outputs(found), expected, rtol=1e-4, atol=1e-4)
    assert (expected - outputs(load_model(kind, base))).abs().max() > 0.01
    tied = json.loads((base / "config.json").read_text()).get("tie_word_embeddings")
    now = json.loads((tmp_path / "full" / "config.json").read_text()).get("tie_word_embeddings")
    assert now is (False if name in UNTIED else tied)
    again = fold(adapter, tmp_path / "again", threads=2)
    assert (again / "model.safetensors").read_bytes() == (
        tmp_path / "full" / "model.safetensors"
    ).read_bytes()


def test_a_folded_adapter_keeps_the_backbones_dtype_or_takes_another(tmp_path: Path) -> None:
    base = save_model("llama", tmp_path / "base")
    adapter = save_trained("llama", base, tmp_path / "adapter", 1, **CAUSAL)
    fold(adapter, tmp_path / "small", dtype="bfloat16", threads=1)
    whole = load_file(fold(adapter, tmp_path / "full") / "model.safetensors")
    small = load_file(tmp_path / "small" / "model.safetensors")
    assert {one.dtype for one in whole.values()} == {torch.float32}
    assert all(torch.equal(small[name], one.bfloat16()) for name, one in whole.items())


def test_a_head_on_a_bare_backbone_gives_a_classifier(tmp_path: Path) -> None:
    """The backbone has neither the prefix `bert.` nor a head; the adapter's model has both."""
    from transformers import AutoModelForSequenceClassification

    whole = save_model("bert-classes", tmp_path / "classes")
    base = save_model("bert", tmp_path / "base")
    tensors = load_file(whole / "model.safetensors")
    bare = {n.removeprefix("bert."): v for n, v in tensors.items() if n.startswith("bert.")}
    save_file(bare, base / "model.safetensors", metadata={"format": "pt"})
    adapter = save_trained("bert-classes", whole, tmp_path / "adapter", 1, **BERT)
    fold(adapter, tmp_path / "full", base=base)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "full")
    expected = outputs(unloaded("bert-classes", whole, adapter))
    torch.testing.assert_close(outputs(model), expected, rtol=1e-4, atol=1e-4)
    config = json.loads((tmp_path / "full" / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert list(config["id2label"]) == ["0", "1", "2"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["llama", "llama-tied"])
def test_a_resized_vocabulary_comes_with_its_tokenizer(kind: str, tmp_path: Path) -> None:
    """PEFT saves both ends of a resized model without declaring them."""
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base, other = save_model(kind, tmp_path / "base"), save_model("bert", tmp_path / "words")
    save_tokenizer(other)
    model = load_model(kind, base)
    model.resize_token_embeddings(VOCABULARY + 3)
    model = get_peft_model(model, LoraConfig(**CAUSAL, init_lora_weights=False))
    with torch.no_grad():
        model.get_input_embeddings().weight[VOCABULARY:] += 0.5
    model.save_pretrained(tmp_path / "adapter")
    AutoTokenizer.from_pretrained(other).save_pretrained(tmp_path / "adapter")
    fold(tmp_path / "adapter", tmp_path / "full")
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "full", dtype=torch.float32)
    assert found.config.vocab_size == VOCABULARY + 3
    ids = torch.tensor([[3, VOCABULARY + 2, 5]])
    resized = load_model(kind, base)
    resized.resize_token_embeddings(VOCABULARY + 3)
    theirs = PeftModel.from_pretrained(resized, tmp_path / "adapter").merge_and_unload()
    with torch.no_grad():
        expected = theirs(input_ids=ids).logits
        torch.testing.assert_close(found(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)
    assert AutoTokenizer.from_pretrained(tmp_path / "full")("red mug")["input_ids"]
    assert found.config.tie_word_embeddings is (kind == "llama-tied")


def test_every_file_of_a_tokenizer_is_the_adapters(tmp_path: Path) -> None:
    adapter, folder = tmp_path / "adapter", tmp_path / "full"
    for place, names in (
        (adapter, ("tokenizer_config.json", "vocab.txt", "chat_templates/own.jinja")),
        (folder, ("config.json", "tokenizer.json", "vocab.json", "vocab.txt", "tekken.json")),
    ):
        for name in names:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(place.name)
    assert take_tokenizer(adapter, folder)
    texts = {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert texts == {
        "config.json": "full",
        "tokenizer_config.json": "adapter",
        "vocab.txt": "adapter",
        "chat_templates/own.jinja": "adapter",
    }


def test_an_adapter_by_its_name_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants as hub

    base = save_model("llama", tmp_path / "base")
    adapter = save_trained("llama", base, tmp_path / "adapter", 1, **CAUSAL)
    stored = tmp_path / "hub" / "models--shop--toys"
    (stored / "refs").mkdir(parents=True)
    (stored / "refs" / "main").write_text("1" * 40)
    shutil.copytree(adapter, stored / "snapshots" / ("1" * 40))
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    fold("shop/toys", tmp_path / "full")
    assert (tmp_path / "full" / "model.safetensors").exists()
    with pytest.raises(WeftError, match=r"hf download shop/books brings one"):
        fold("shop/books", tmp_path / "other")


def test_what_cannot_be_folded_is_one_sentence(tmp_path: Path) -> None:
    base = save_model("llama", tmp_path / "base")
    untrained = save_trained(
        "llama", base, tmp_path / "untrained", 1, **CAUSAL, init_lora_weights=True
    )
    tensors = load_file(untrained / "adapter_model.safetensors")
    tensors = {n: torch.zeros_like(v) if "lora_B" in n else v for n, v in tensors.items()}
    save_file(tensors, untrained / "adapter_model.safetensors")
    head = save_trained("llama", base, tmp_path / "head", 1, **CAUSAL, modules_to_save=["lm_head"])
    tensors = load_file(head / "adapter_model.safetensors")
    tensors["base_model.model.lm_head.weight"] = torch.ones(VOCABULARY + 2, 16)
    save_file(tensors, head / "adapter_model.safetensors")
    valued = save_trained("llama", base, tmp_path / "valued", 1, **CAUSAL)
    edit = json.loads((valued / "adapter_config.json").read_text()) | {
        "modules_to_save": ["v_head"]
    }
    (valued / "adapter_config.json").write_text(json.dumps(edit))
    tensors = load_file(valued / "adapter_model.safetensors")
    tensors["base_model.model.v_head.weight"] = torch.ones(1, 16)
    save_file(tensors, valued / "adapter_model.safetensors")
    biased = save_trained("qwen2", save_model("qwen2", tmp_path / "qwen2"), tmp_path / "b", 1,
                          **CAUSAL, bias="all")  # fmt: skip
    for adapter, words in [
        (untrained, "changes nothing: its factors are zero"),
        (head, "another number of tokens at each end: 50 in 'lm_head.weight' and 48"),
        (valued, "saves 'v_head.weight' whole, which base lacks, and nothing says of which class"),
        (biased, "has the bias 'model.layers.0.self_attn.k_proj.bias', which base lacks"),
    ]:
        with pytest.raises(WeftError, match=words) as error:
            fold(adapter, tmp_path / "out", base=base)
        assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
    coded = tmp_path / "coded"
    shutil.copytree(base, coded)
    (coded / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "FP8"}}')
    with pytest.raises(WeftError, match=r"coded is quantised \(hf_quant_config\.json, of ModelOpt"):
        fold(head, tmp_path / "out", base=coded)
