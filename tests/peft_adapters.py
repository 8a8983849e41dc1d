"""Tiny models of published classes, and adapters that PEFT itself writes on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny  # noqa: F401  (offline settings)
import torch
import transformers as t
from torch import Tensor

VOCABULARY = 48
_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
}
_ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_BERT = {**_SHAPE, "initializer_range": 0.3, "hidden_dropout_prob": 0.0}

MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: t.LlamaForCausalLM(
        t.LlamaConfig(**_SHAPE, **_ENDS, num_key_value_heads=2, initializer_range=0.3)
    ),
    "llama-tied": lambda: t.LlamaForCausalLM(
        t.LlamaConfig(
            **_SHAPE,
            **_ENDS,
            num_key_value_heads=2,
            initializer_range=0.3,
            tie_word_embeddings=True,
        )
    ),
    "qwen2": lambda: t.Qwen2ForCausalLM(
        t.Qwen2Config(
            **_SHAPE,
            **_ENDS,
            num_key_value_heads=2,
            initializer_range=0.3,
            tie_word_embeddings=True,
        )
    ),
    "gpt2": lambda: t.GPT2LMHeadModel(
        t.GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=16,
            n_layer=2,
            n_head=2,
            n_positions=64,
            initializer_range=0.3,
            **_ENDS,
        )
    ),
    "bert": lambda: t.BertModel(t.BertConfig(**_BERT), add_pooling_layer=False),
    "bert-classes": lambda: t.BertForSequenceClassification(t.BertConfig(**_BERT, num_labels=3)),
    "bert-tokens": lambda: t.BertForTokenClassification(t.BertConfig(**_BERT, num_labels=3)),
    "roberta-classes": lambda: t.RobertaForSequenceClassification(
        t.RobertaConfig(**_BERT, **_ENDS, num_labels=3)
    ),
    "t5": lambda: t.T5ForConditionalGeneration(
        t.T5Config(
            vocab_size=VOCABULARY,
            d_model=16,
            d_kv=8,
            d_ff=24,
            num_layers=2,
            num_heads=2,
            decoder_start_token_id=0,
        )
    ),
}
IDS = torch.tensor([[3, 5, 9, 1, 7, 40, 2], [4, 3, 1, 8, 6, 5, 30]])


def save_model(kind: str, folder: Path, seed: int = 0) -> Path:
    """A folder with a random model whose biases and norms are not what they start as."""
    torch.manual_seed(seed)
    model = MODELS[kind]()
    stir(model, 0.1, seed)
    model.save_pretrained(folder)
    return folder


def stir(model: Any, size: float, seed: int, *, trainable: bool = False) -> None:
    """Add normal numbers to parameters of the model, or to those that are trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad or not trainable:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * size)


def load_model(kind: str, folder: Path) -> Any:
    return type(MODELS[kind]()).from_pretrained(folder, dtype=torch.float32)


def save_trained(kind: str, base: Path, folder: Path, seed: int, **config: Any) -> Path:
    """An adapter's folder as PEFT leaves it after training: everything trainable has moved."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = {"r": 2, "lora_alpha": 6, "init_lora_weights": False, **config}
    model = get_peft_model(load_model(kind, base), LoraConfig(**config))
    stir(model, 0.2, seed, trainable=True)
    model.save_pretrained(folder)
    return folder


def outputs(model: Any) -> Tensor:
    """Logits, or the last hidden state of a model without a head, in float64."""
    more = {"decoder_input_ids": IDS[:, :4]} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        out = model.eval()(input_ids=IDS, **more)
    found: Tensor = out.logits if hasattr(out, "logits") else out.last_hidden_state
    return found.double()


def unloaded(kind: str, base: Path, adapter: Path) -> Any:
    """What PEFT's own merge_and_unload makes of one adapter and the backbone."""
    from peft import PeftModel

    return PeftModel.from_pretrained(load_model(kind, base), adapter).merge_and_unload()


def averaged(kind: str, base: Path, adapters: list[Path], weights: list[float]) -> Any:
    """The float64 reference of a weighted sum with Σλ = 1: every parameter is Σ λ_k θ_k, with
    θ_k out of PEFT's merge_and_unload."""
    models = [unloaded(kind, base, adapter) for adapter in adapters]
    states = [{n: v.double() for n, v in model.state_dict().items()} for model in models]
    first = models[0].double()
    first.load_state_dict(
        {name: sum(w * s[name] for w, s in zip(weights, states, strict=True)) for name in states[0]}
    )
    return first
