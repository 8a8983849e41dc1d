"""Learning merging weights on a GPU: the CPU's, up to rounding. Needs one; left out elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learning_made import READING, adapter_of, catalogue, moved

from weft.learning.collaborative import CollaborativeSettings
from weft.learning.sources import learn_collaborative

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

CATALOGUES = [catalogue(0, 60), catalogue(60, 60)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"weights": "layer", "mask_self": True},
        {"distillation": 0, "labels": "merged"},
        {"probes": {"length": 3}, "refresh": 4},
        {"recommendation": 0, "distillation": 0, "entropy": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["checkpoints", "adapters"])
def test_weights_are_those_that_the_cpu_learns(
    tiny_bert: Path, tmp_path: Path, kind: str, changes: dict[str, Any]
) -> None:
    parts: list[Any] = [moved(tiny_bert, tmp_path / f"p{seed}", seed) for seed in (1, 2)]
    how: dict[str, Any] = {"base": tiny_bert}
    if kind == "adapters":
        parts = [adapter_of(tiny_bert, seed, scale=0.2) for seed in (1, 2)]
        how = {"backbone": str(tiny_bert)}
    settings = CollaborativeSettings(steps=15, learning_rate=0.01, **changes)
    found = [
        learn_collaborative(
            parts, CATALOGUES, READING, settings, precision="float32", device=device, **how
        ).learned.coefficients
        for device in ("cpu", "cuda")
    ]
    assert np.allclose(found[0], found[1], atol=2e-3)
