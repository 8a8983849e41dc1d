"""Adapters with heads on tiny backbones, and X-Cross the slow way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tiny import equipped, last_of, make_shop
from torch import Tensor

from weft.adapters import Adapter, LoraSettings, fold_into, from_attached
from weft.backbones import load_backbone
from weft.integration.kinds import integrator_settings
from weft.recommenders.integrated import IntegratedBackbone
from weft.recommenders.text.cross_encoder import (
    CrossEncoder,
    CrossEncoderSettings,
    add_head,
)
from weft.text.pair import PairSettings

SETTINGS = CrossEncoderSettings(prompt=PairSettings(max_tokens=100, history_items=4), drawn=4)
HISTORIES = [np.array(h) for h in ([1, 2, 3], [40], [5, 5, 9, 30, 31], [12, 0])]
CANDIDATES = np.array([[1, 2, 3, 9], [4, 5, 6, 7], [1, 40, 8, 9], [0, 13, 17, 30]])


def plain(folder: Path, **options: Any) -> CrossEncoder:
    backbone = load_backbone(str(folder), precision="float32")
    recommender = CrossEncoder(equipped(backbone, **options), SETTINGS, make_shop().items)
    recommender.prepare([last_of(make_shop())])
    return recommender


def adapter_of(folder: Path, seed: int, *, rank: int = 2, targets: Any = "query-value") -> Adapter:
    """A random adapter whose delta matters, with a random head."""
    recommender = plain(folder, lora=LoraSettings(rank=rank, targets=targets), seed=seed)
    random = torch.Generator().manual_seed(seed)
    for linear in recommender.attached.values():
        linear.b.data = torch.randn(linear.b.shape, generator=random) * 0.3
    backbone = {"name": str(folder), "fingerprint": recommender.backbone.fingerprint}
    manifest = {"backbone": backbone, "domains": [f"shop {seed}"]}
    return from_attached(recommender.attached, manifest, recommender.whole_modules())


def integrated(
    folder: Path, adapters: Sequence[Adapter], integrator: Any, **more: Any
) -> CrossEncoder:
    backbone = load_backbone(str(folder), precision="float32")
    settings = integrator_settings(integrator)
    stacked = IntegratedBackbone(backbone, adapters, settings, **more)
    recommender = CrossEncoder(stacked, SETTINGS, make_shop().items)
    recommender.prepare([last_of(make_shop())])
    return recommender


def integration(recommender: CrossEncoder) -> IntegratedBackbone:
    """What an integrated recommender's states come from."""
    assert isinstance(recommender.equipped, IntegratedBackbone)
    return recommender.equipped


def randomise(recommender: CrossEncoder, seed: int = 0, size: float = 0.2) -> None:
    """Trained values that are far from where training starts."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in integration(recommender).integrator.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random) * size)


def naive_states(
    folder: Path,
    adapters: Sequence[Adapter],
    trained: dict[str, Tensor],
    first: int,
    betas: tuple[float, float],
    ids: Tensor,
    mask: Tensor,
) -> NDArray[np.float64]:
    """h [n, d] of the first token: every source a model of its own in float64, its adapter folded,
    run anew for each block, and tokens one by one."""
    models = []
    for adapter in adapters:
        model: Any = load_backbone(str(folder), precision="float32").model.double()
        add_head(model, 0)
        fold_into(model, adapter)
        models.append(model)
    blocks = [_list(model) for model in models]
    count, n = len(blocks[0]), len(models)
    refined: list[list[Tensor]] = []  # block, source
    for block in range(count):
        outputs = [
            _output(models[m], blocks[m], [of[m] for of in refined], block, ids, mask)
            for m in range(n)
        ]
        if block >= first:
            w_cat = trained[f"integrator.w_cat.{block - first}"].double()
            outputs = _refined(outputs, w_cat, *betas)
        refined.append(outputs)
    last = [
        _output(models[m], blocks[m], [of[m] for of in refined], None, ids, mask) for m in range(n)
    ]
    w = trained["integrator.w"].double()
    out: Tensor = sum((w[m] * last[m][:, 0] for m in range(n)), torch.zeros(()))
    return out.detach().numpy()


def _list(model: Any) -> Any:
    return model.encoder.layer if hasattr(model, "encoder") else model.layers


def _output(
    model: Any, blocks: Any, below: list[Tensor], wanted: int | None, ids: Tensor, mask: Tensor
) -> Tensor:
    """Block `wanted`'s output, or the last hidden state, with the blocks' outputs `given` below."""
    seen: dict[int, Tensor] = {}

    def hook(index: int) -> Any:
        def replace(module: Any, args: Any, output: Any) -> Any:
            hidden = output if isinstance(output, Tensor) else output[0]
            seen[index] = hidden
            if index >= len(below):
                return None
            return below[index] if isinstance(output, Tensor) else (below[index], *output[1:])

        return replace

    handles = [block.register_forward_hook(hook(i)) for i, block in enumerate(blocks)]
    with torch.no_grad():
        last: Tensor = model(input_ids=ids, attention_mask=mask).last_hidden_state
    for handle in handles:
        handle.remove()
    return last if wanted is None else seen[wanted]


def _refined(h: list[Tensor], w_cat: Tensor, beta: float, gamma: float) -> list[Tensor]:
    """Equations 4 and 5 for every text and token by itself."""
    n, texts, tokens = len(h), h[0].shape[0], h[0].shape[1]
    out = [one.clone() for one in h]
    for text in range(texts):
        for token in range(tokens):
            each = [one[text, token] for one in h]
            z = (w_cat @ torch.cat(each)).tolist()
            for m in range(n):
                others = [o for o in range(n) if o != m]
                for place, other in enumerate(others):
                    s = z[m * 2 * (n - 1) + place]
                    t = z[m * 2 * (n - 1) + (n - 1) + place]
                    out[m][text, token] += beta * s * each[other]
                    out[m][text, token] += gamma * t * (each[m] - each[other])
    return out
