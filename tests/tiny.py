"""Tiny backbones with random weights, and a domain of tables and chairs, for every test."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weft.adapters import Adapter, LoraSettings
    from weft.backbones import Backbone
    from weft.recommenders.equipped import EquippedBackbone

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import polars as pl

from weft.data.domain import Catalogue, Domain, Examples, Sequences


def b3sum(path: Path) -> str:
    """The hash that `b3sum` prints of a file."""
    from blake3 import blake3

    return blake3(path.read_bytes()).hexdigest()


def equipped(
    backbone: Backbone,
    adapter: Adapter | None = None,
    lora: LoraSettings | None = None,
    seed: int = 0,
) -> EquippedBackbone:
    """A loaded backbone as it is, with an adapter folded in, or with LoRA to train."""
    from weft.recommenders.equipped import FoldedBackbone, LoraBackbone, PlainBackbone

    if adapter is not None:
        return FoldedBackbone(backbone, adapter, seed)
    return PlainBackbone(backbone, seed) if lora is None else LoraBackbone(backbone, lora, seed)


COLOURS = ["red", "blue", "green", "black", "white", "amber"]
THINGS = ["mug", "table", "chair", "lamp", "kettle", "rug", "shelf", "clock"]
ENCODERS = ("bert", "roberta", "deberta", "modernbert")


def save_tokenizer(folder: Path) -> int:
    """A WordPiece tokenizer of the fixtures' words and all letters; returns its size."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = [chr(code) for code in range(97, 123)] + list("0123456789[]|<>/!")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *COLOURS, *THINGS, "no", *letters]
    words += [f"##{letter}" for letter in letters]
    vocabulary = {word: row for row, word in enumerate(words)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(folder)
    return len(words)


def save_encoder(kind: str, folder: Path, *, seed: int = 0) -> Path:
    """A folder with a random encoder of 2 layers, 32 wide, its published class and a tokenizer."""
    import torch
    import transformers as t

    folder.mkdir(parents=True, exist_ok=True)
    shape = {
        "vocab_size": save_tokenizer(folder),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 160,
        "pad_token_id": 0,
        "initializer_range": 0.2,
    }
    ends = {"bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
    make = {
        "bert": lambda: t.BertModel(t.BertConfig(**shape), add_pooling_layer=False),
        "roberta": lambda: t.RobertaModel(t.RobertaConfig(**shape)),
        "deberta": lambda: t.DebertaV2Model(
            t.DebertaV2Config(
                **shape, relative_attention=True, pos_att_type=["c2p", "p2c"], share_att_key=True
            )
        ),
        "modernbert": lambda: t.ModernBertModel(
            t.ModernBertConfig(**shape, **ends, local_attention=16)
        ),
    }[kind]
    torch.manual_seed(seed)
    make().save_pretrained(folder)
    return folder


def make_shop(users: int = 64, *, repeat: bool = False) -> Domain:
    """48 items "colour thing"; a user stays with one colour. With `repeat`, some titles recur."""
    titles = [f"{colour} {thing}" for colour in COLOURS for thing in THINGS]
    if repeat:
        titles[9], titles[20] = titles[1], titles[1]
    frame = pl.DataFrame({"item_id": [f"i{row}" for row in range(48)], "title": titles})
    random = np.random.default_rng(3)
    lengths = random.integers(3, 8, users)
    item = np.concatenate(
        [8 * (user % 6) + random.permutation(8)[:length] for user, length in enumerate(lengths)]
    ).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    user_ids = pl.Series([f"u{row}" for row in range(users)], dtype=pl.String)
    sequences = Sequences(user_ids, offsets, item, np.arange(len(item), dtype=np.int64))
    return Domain("shop", Catalogue(frame), sequences)


def last_of(domain: Domain) -> Examples:
    """One example a user: the last item is the target."""
    sequences = domain.sequences
    return Examples(domain, np.arange(len(sequences)), sequences.lengths - 1)
