"""A backbone becomes a recommender's model: an adapter folded in, LoRA attached to be trained, or
all of its parameters made trainable."""

from __future__ import annotations

import torch

from weft.adapters import (
    Adapter,
    LoraLinear,
    LoraSettings,
    attach,
    check_backbone,
    fold,
    initialise,
)
from weft.adapters.lora import turn_dropout_off
from weft.artifacts.hashing import hash_json
from weft.backbones import Backbone
from weft.backbones.files import parameters_of, tensor_names
from weft.errors import WeftError


def equip(
    backbone: Backbone, adapter: Adapter | None, lora: LoraSettings | None, lora_seed: int
) -> tuple[dict[str, LoraLinear], str]:
    """Change the backbone's model in place; (attached LoRA linears, hash of the weights).

    With `adapter` its delta is folded into the weights: for use. With `lora` LoRA linears are
    attached: for training. With neither it stays the zero-shot backbone. Both are a `WeftError`.
    """
    if adapter is not None and lora is not None:
        raise WeftError("a recommender takes an adapter to use or LoRA settings to train, not both")
    weights, attached = backbone.fingerprint, dict[str, LoraLinear]()
    if adapter is not None:
        check_backbone(adapter, backbone.name, backbone.fingerprint)
        fold(backbone.model, adapter)
        weights = hash_json([backbone.fingerprint, adapter.weights_hash])
    if lora is not None:
        attached = attach(backbone.model, lora)
        initialise(attached, lora_seed)
    return attached, weights


def train_all_of(backbone: Backbone) -> None:
    """Make every parameter of the backbone's folder trainable. Its own dropout is turned off, as
    for LoRA. What the folder lacks (a pooler that nobody uses) stays as it is.

    Weights must be float32: steps of fine-tuning are smaller than bfloat16 can tell.
    """
    kept = parameters_of(tensor_names(backbone.folder), backbone.model)
    for name, parameter in backbone.model.named_parameters():
        parameter.requires_grad_(name in kept)
        if name not in kept:
            continue
        if parameter.dtype != torch.float32:
            kind = str(parameter.dtype).removeprefix("torch.")
            raise WeftError(f"'{name}' is {kind}; training all parameters needs float32 weights")
    turn_dropout_off(backbone.model)
