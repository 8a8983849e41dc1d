"""Small models that were moved in known directions, and catalogues, for learning merging weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import torch
from safetensors.torch import load_file, save_file
from tiny import COLOURS, THINGS

from weft.adapters import Adapter, LoraSettings, attach, from_attached
from weft.backbones import load_backbone
from weft.data.domain import Catalogue
from weft.recommenders.kinds import make_recommender
from weft.recommenders.text.bi_encoder import BiEncoder, BiEncoderSettings

READING = BiEncoderSettings(history_tokens=48)
WEIGHTS = "model.safetensors"


def moved(base: Path, folder: Path, seed: int, scale: float = 0.05) -> Path:
    """A copy of a model with noise on every tensor of floating point numbers."""
    shutil.copytree(base, folder)
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: value + scale * torch.randn(value.shape, generator=generator)
        if value.is_floating_point()
        else value
        for name, value in load_file(base / WEIGHTS).items()
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def catalogue(start: int = 0, count: int = 24, **columns: list[str]) -> Catalogue:
    """Items "thing colour thing" from `start` on; `columns` are added or take the titles' place."""
    every = [
        f"{first} {colour} {last}" for first in THINGS for colour in COLOURS for last in THINGS
    ]
    titles = every[start : start + count]
    ids = [f"i{start + row}" for row in range(len(columns.get("title", titles)))]
    return Catalogue(pl.DataFrame({"item_id": ids, "title": titles} | columns))


def scorer(folder: Path | str, of: Catalogue, adapter: Adapter | None = None) -> BiEncoder:
    recommender = make_recommender(str(folder), READING, of, adapter=adapter, precision="float32")
    assert isinstance(recommender, BiEncoder)
    return recommender


def adapter_of(backbone: Path, seed: int, scale: float = 0.3) -> Adapter:
    """A LoRA adapter of random factors."""
    loaded = load_backbone(str(backbone), precision="float32")
    attached = attach(loaded.model, LoraSettings(rank=2 + seed % 2, alpha=4))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for linear in attached.values():
            linear.a.copy_(torch.randn(linear.a.shape, generator=generator) * scale)
            linear.b.copy_(torch.randn(linear.b.shape, generator=generator) * scale)
    return from_attached(attached, {"backbone": loaded.identity})
