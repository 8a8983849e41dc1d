"""mergekit's files in short, and what weft makes of them."""

from __future__ import annotations

import yaml

from weft.merging.mergekit.recipe import translate
from weft.merging.methods import make_method
from weft.merging.recipe import MergeRecipe
from weft.merging.weights import resolve_weights

LAYERS = 4
NAMES = [
    "model.embed_tokens.weight",
    *(f"model.layers.{i}.{m}.weight" for i in range(LAYERS) for m in ("mlp.up", "self_attn.q")),
    "model.norm.weight",
    "lm_head.weight",
]


def read(text: str) -> tuple[MergeRecipe, list[str]]:
    said: list[str] = []
    recipe = translate(yaml.safe_load(text), said.append)
    make_method(recipe.method)  # weft has what it is told
    return recipe, said


def table(recipe: MergeRecipe) -> dict[str, list[float]]:
    weights = resolve_weights(recipe.weights or [], NAMES)
    return {name: weights(name) for name in NAMES}


def two(method: str, parameters: str = "", own: str = "weight: 0.5", more: str = "") -> str:
    return f"""
        merge_method: {method}
        base_model: base
        models:
          - {{model: base}}
          - {{model: a, parameters: {{{own}}}}}
          - {{model: b, parameters: {{{own}}}}}
        parameters: {{{parameters}}}
        {more}
    """


SUM = {"name": "task_arithmetic", "scale": 1.0}
CONSENSUS = {
    "name": "ties",
    "density": 1.0,
    "trim": "tensor",
    "elect": "weighted",
    "zeros": "positive",
    "normalize": False,
    "scale": 1.0,
}
