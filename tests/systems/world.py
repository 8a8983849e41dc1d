"""A recipe so small that a whole run takes seconds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from weft.stages.executor import execute
from weft.stages.graph import missing
from weft.stages.stage import Stage


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
    if changes.get("system", "weaverec") == "weaverec":
        values["controls"] = ["matched", "sources", "naive", "all_data", "soup", "factors"]
    return values | changes


CROSS: dict[str, Any] = {
    "recommender": {
        "kind": "cross_encoder",
        "text": {"words": 3, "tokens": 8},
        "prompt": {"max_tokens": 60, "history_items": 4},
        "drawn": 3,
    },
    "evaluate": {"candidates": {"drawn": 9}, "full": False, "at": [1, 5, 10]},
    "headline": ["ndcg@1", "ndcg@5"],
    "show_users": 0,
}
"""Changes to a recipe: a cross-encoder of short prompts."""


def write_recipe(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(values), "utf-8")
    return path


def do(stages: Iterable[Stage], run: Path) -> None:
    """Do what is missing of some stages in this process."""
    for stage in missing(stages, run):
        execute(stage, run, lambda *_: None)
