"""Small language models with tokenizers of their own, written as folders."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

WIDTH = 4
WORDS = ("<unk>", "</s>", *(f"w{i}" for i in range(8)))


def model(seed: int, rows: int, *, head: bool = True) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (rows, WIDTH)}
    shapes |= {f"model.layers.{i}.mlp.weight": (3, WIDTH) for i in range(2)}
    shapes |= {"lm_head.weight": (rows, WIDTH)} if head else {}
    return {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}


def tokens(added: Sequence[str], words: Sequence[str] = WORDS) -> dict[str, int]:
    """Words, then added tokens, each in the next row."""
    return {token: row for row, token in enumerate([*words, *added])}


def fast_tokenizer(added: Sequence[str], words: Sequence[str] = WORDS) -> dict[str, Any]:
    """tokenizer.json of whole words."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    entries = [
        {"id": len(words) + k, "content": token, **flags, "special": True}
        for k, token in enumerate(added)
    ]
    vocab = {word: row for row, word in enumerate(words)}
    return {
        "version": "1.0",
        "added_tokens": entries,
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    }


def write_model(
    folder: Path, tensors: Mapping[str, Tensor], added: Sequence[str] | None = None, **config: Any
) -> Path:
    """A folder with weights, config.json, and, where `added` is given, a tokenizer.json."""
    folder.mkdir(parents=True)
    save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    if added is not None:
        (folder / "tokenizer.json").write_text(json.dumps(fast_tokenizer(added)))
    return folder
