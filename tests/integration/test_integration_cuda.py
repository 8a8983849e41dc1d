"""The same scores on a GPU, where masks are of another kind; skipped without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from integrated_recommenders import (
    CANDIDATES,
    HISTORIES,
    SETTINGS,
    adapter_of,
    integrated,
    integration,
    randomise,
)
from tiny import make_shop, save_encoder

from weft.backbones import load_backbone
from weft.integration import integrator_settings
from weft.recommenders.integrated import IntegratedBackbone
from weft.recommenders.text.cross_encoder import CrossEncoder

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("kind", ["bert", "roberta", "deberta"])
@pytest.mark.parametrize("integrator", ["x_cross", "x_lora", "meteora"])
def test_a_gpu_gives_the_same_scores(kind: str, integrator: Any, tmp_path: Path) -> None:
    folder = save_encoder(kind, tmp_path / kind)
    both = [adapter_of(folder, seed) for seed in (1, 2)]
    recommender = integrated(folder, both, integrator)
    randomise(recommender)
    stacked = IntegratedBackbone(
        load_backbone(str(folder), precision="float32", device="cuda"),
        both,
        integrator_settings(integrator),
        tensors=integration(recommender).tensors(),
    )
    there = CrossEncoder(stacked, SETTINGS, make_shop().items)
    scores = there.score(HISTORIES, CANDIDATES)
    np.testing.assert_allclose(scores, recommender.score(HISTORIES, CANDIDATES), atol=1e-4)
