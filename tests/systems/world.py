"""A backbone and recipe so small that a whole run takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from weft.data.mall import mall

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def save_tiny_backbone(folder: Path) -> Path:
    """A random two-layer BERT over the words of the mall's titles."""
    domains = mall(seed=0, users=40, items=40).values()
    words = {w.lower() for d in domains for t in d.items.titles for w in t.split()}
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def recipe(backbone: Path, **changes: Any) -> dict[str, Any]:
    """Three mall domains, all of them targets; a few seconds on two cores."""
    values: dict[str, Any] = {
        "name": "tiny",
        "backbone": str(backbone),
        "mall": {"seed": 0, "users": 40, "items": 40},
        "domains": ["home", "toys", "kitchen"],
        "recommender": {"kind": "bi_encoder", "history_items": 3, "history_tokens": 48},
        "branches": {
            "examples": 48,
            "epochs": 2,
            "batch": 16,
            "lora": {"rank": 2, "alpha": 4, "dropout": 0.1},
            "checkpoint_every": 2,
            "log_every": 1,
        },
        "evaluate": {"candidates": {"drawn": 9, "by": "uniform"}, "at": [1, 5, 10]},
        "show_users": 2,
        "seed": 3,
    }
    return values | changes


def write_recipe(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(values), "utf-8")
    return path
