"""Learning merging weights on a GPU: the CPU's, up to rounding. Needs one; left out elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from moved_models import READING, adapter_of, catalogue, moved

from weft.learning.collaborative import learn_collaborative
from weft.learning.part_models import Reading
from weft.learning.settings import CollaborativeSettings
from weft.merging.merge import plan_merge

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
    base: Path | None = tiny_bert
    backbone: str | None = None
    if kind == "adapters":
        parts = [adapter_of(tiny_bert, seed, scale=0.2) for seed in (1, 2)]
        base, backbone = None, str(tiny_bert)
    settings = CollaborativeSettings(steps=15, learning_rate=0.01, **changes)
    plan = plan_merge(parts, settings.method, None, base=base)
    cpu, cuda = (
        learn_collaborative(
            plan, CATALOGUES, settings, reading=Reading(READING, backbone, "float32", device)
        ).learned.coefficients
        for device in ("cpu", "cuda")
    )
    assert np.allclose(cpu, cuda, atol=2e-3)
