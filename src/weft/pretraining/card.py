"""The files that describe a pretrained backbone: weft.json for programs, README.md for people."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from weft import __version__
from weft.artifacts.atomic import write_json
from weft.pretraining.recipe import PretrainRecipe
from weft.safe_text import markdown

CARD, MANIFEST = "README.md", "weft.json"


def write_card(recipe: PretrainRecipe, facts: Mapping[str, Any], folder: Path) -> None:
    """Write both files into an existing folder; `facts` are sizes, perplexities and loss curve."""
    manifest = {
        "kind": "backbone",
        "recipe": recipe.model_dump(mode="json"),
        **facts,
        "versions": {"weft": __version__, "torch": torch.__version__},
        "machine": platform.machine(),
    }
    write_json(folder / MANIFEST, manifest)
    (folder / CARD).write_text(card(recipe, manifest), "utf-8")


def card(recipe: PretrainRecipe, manifest: Mapping[str, Any]) -> str:
    """What the backbone is, in Markdown."""
    shape, titles = recipe.shape, manifest["titles"]
    fields = markdown(" or ".join(recipe.corpus.fields))
    return f"""# {markdown(recipe.name or "A small causal language model")}

A {shape.architecture} model of {manifest["parameters"]:,} parameters (width {shape.hidden}, {shape.layers} layers,
{shape.heads} heads, vocabulary {shape.vocabulary:,}, window {shape.window:,}), trained from scratch by
`weft backbone pretrain` on {manifest["tokens"]:,} tokens of catalogue text: {titles["read"]:,} titles, and lists
of titles that share {fields}, plain or as a recommendation dialogue. It has read
no user's interactions, and no other text: it is a backbone for recommenders, not a general one.

| | |
|---|---|
| catalogues | {markdown(", ".join(recipe.catalogues))} |
| perplexity per token of text made of {titles["held_out"]:,} held-out titles (prompts' words and separators too) | {manifest["perplexity"]:.2f} (untrained {manifest["perplexity_before"]:,.0f}) |
| blocks of | {recipe.train.block} tokens, documents one after the other |
| seed | {recipe.seed} |

`weft.json` has the whole recipe and the loss curve.
"""
