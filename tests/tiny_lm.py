"""Tiny causal language models with random weights: three architectures, grouped-query attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny  # noqa: F401  (offline settings)

ARCHITECTURES = ("qwen2", "qwen3", "llama")


def causal_model(
    architecture: str, *, vocabulary: int = 400, seed: int = 0, window: int = 512
) -> Any:
    """3 layers, 32 wide, 4 heads that share 2 keys; float32, weights large enough to tell apart."""
    import torch

    from weft.backbones.shapes import Shape, new_causal_model

    shape = Shape(
        architecture=architecture,  # type: ignore[arg-type]
        hidden=32,
        layers=3,
        heads=4,
        kv_heads=2,
        intermediate=48,
        vocabulary=vocabulary,
        window=window,
    )
    model = new_causal_model(shape, seed, bos_token_id=None, eos_token_id=None, pad_token_id=None)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.25)
            else:  # norms and biases are not what they start as either
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


TITLES = [f"{colour} {thing}" for colour in ("Red", "Blue", "Green", "Old") for thing in
          ("mug", "table lamp", "table", "chair with arms", "rug", "clock")]  # fmt: skip


def save_causal(architecture: str, folder: Path, *, seed: int = 0) -> Path:
    """A backbone folder: a random model and a byte-level tokenizer with a ChatML template."""
    from weft.backbones.tokenizer import train_tokenizer
    from weft.data.mall import mall

    titles = mall(users=20, items=60)["home"].items.titles
    tokenizer = train_tokenizer([*TITLES, *titles] * 4, 900)
    model = causal_model(architecture, vocabulary=len(tokenizer), seed=seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
