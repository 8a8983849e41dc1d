"""What a recommender's model gets from its backbone: nothing, a folded adapter, LoRA to train, or all
of its parameters to train. (Integrated adapters are in `weft.recommenders.integrated`.)

One object says which; it is handed to the recommender's constructor, which adds its own modules
and then calls `equip`. Inputs, scores and losses are the same code for all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from weft.adapters import (
    Adapter,
    LoraLinear,
    LoraSettings,
    attach,
    check_backbone,
    fold_into,
    from_attached,
    initialise,
    write_adapter,
)
from weft.adapters.lora import turn_dropout_off
from weft.artifacts.atomic import write_json
from weft.artifacts.hashing import hash_json
from weft.artifacts.travelling import MANIFEST
from weft.backbones import Backbone
from weft.backbones.files import parameters_of, tensor_names, write_copy
from weft.errors import MismatchError, SettingError


class EquippedBackbone(ABC):
    """A loaded backbone, and what is done to its model."""

    in_training: ClassVar[bool] = False
    """Whether weights may still move."""

    integrated: ClassVar[bool] = False
    """Whether hidden states come from several adapters."""

    checkpoints_gradients: ClassVar[bool] = True
    """Whether training may compute a block's activations again in place of holding them."""

    mixed: bool = False
    """Whether products are taken in bfloat16 while weights are float32."""

    def __init__(self, backbone: Backbone, seed: int = 0) -> None:
        self.backbone = backbone
        self.seed = seed
        """Of the modules that a recommender adds, and of LoRA's factors."""
        self.attached: dict[str, LoraLinear] = {}

    @property
    def weights_hash(self) -> str:
        """Of the weights that items are scored with; in training of those that it began with."""
        return self.backbone.fingerprint

    @property
    def model(self) -> Any:
        return self.backbone.model

    def equip(  # noqa: B027
        self, added: Mapping[str, nn.Module] | None = None, *, layout: Any = None
    ) -> None:
        """Change the model in place, once, after the recommender has `added` its own modules by name.

        `layout` is what else it changed in the model, as JSON: part of the key of stored
        activations.
        """

    def hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        """[n, tokens, d] last hidden states of ids and mask [n, tokens]."""
        states: Tensor = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return states

    def training_hidden(self, ids: Tensor, mask: Tensor, examples: int) -> Tensor:
        """`hidden` in a training step of so many examples, whose rows stand one after the other."""
        return self.hidden(ids, mask)

    @abstractmethod
    def write(
        self, folder: Path, manifest: Mapping[str, Any], added: Mapping[str, nn.Module]
    ) -> None:
        """Write what makes the model other than its backbone, and the manifest, into an existing
        folder."""


class PlainBackbone(EquippedBackbone):
    """The backbone as it is (zero-shot), or a whole model out of a checkpoint's folder."""

    def write(
        self, folder: Path, manifest: Mapping[str, Any], added: Mapping[str, nn.Module]
    ) -> None:
        write_json(folder / MANIFEST, {**manifest, "kind": "zero_shot"})


class FoldedBackbone(EquippedBackbone):
    """An adapter's delta folded into the weights: for use.

    Raises a `MismatchError` for an adapter of another backbone, or without the recommender's
    modules.
    """

    def __init__(self, backbone: Backbone, adapter: Adapter, seed: int = 0) -> None:
        super().__init__(backbone, seed)
        self.adapter = adapter

    def equip(self, added: Mapping[str, nn.Module] | None = None, *, layout: Any = None) -> None:
        names = list(added or {})
        if any(not _has_module(self.adapter, name) for name in names):
            raise MismatchError(
                f"the adapter has no {' and '.join(names)}, so this kind of recommender can't use it"
            )
        check_backbone(self.adapter, self.backbone.name, self.backbone.fingerprint)
        fold_into(self.model, self.adapter)

    @property
    def weights_hash(self) -> str:
        return hash_json([self.backbone.fingerprint, self.adapter.weights_hash])

    def write(
        self, folder: Path, manifest: Mapping[str, Any], added: Mapping[str, nn.Module]
    ) -> None:
        write_adapter(replace(self.adapter, manifest=dict(manifest)), folder)


def _has_module(adapter: Adapter, name: str) -> bool:
    return any(tensor.startswith(f"{name}.") for tensor in adapter.saved)


class LoraBackbone(EquippedBackbone):
    """LoRA linears attached to the frozen backbone, random from `seed`: for training. The
    recommender's own modules are trained too."""

    in_training = True

    def __init__(self, backbone: Backbone, lora: LoraSettings, seed: int = 0) -> None:
        super().__init__(backbone, seed)
        self.lora = lora

    def equip(self, added: Mapping[str, nn.Module] | None = None, *, layout: Any = None) -> None:
        self.attached = attach(self.model, self.lora, added or ())
        initialise(self.attached, self.seed)
        for module in (added or {}).values():
            module.requires_grad_(True)

    def adapter(self, manifest: Mapping[str, Any], added: Mapping[str, nn.Module]) -> Adapter:
        """What was trained so far, as an adapter."""
        return from_attached(self.attached, dict(manifest), added)

    def write(
        self, folder: Path, manifest: Mapping[str, Any], added: Mapping[str, nn.Module]
    ) -> None:
        write_adapter(self.adapter(manifest, added), folder)


class WholeBackbone(EquippedBackbone):
    """Every parameter of the backbone's folder trained, in float32; what the folder lacks (a pooler
    that nobody uses) stays as it is. With `mixed`, products are in bfloat16.

    The model's own dropout is turned off, as for LoRA. Weights of another type are a `SettingError`:
    steps of fine-tuning are smaller than bfloat16 can tell.
    """

    in_training = True

    def __init__(self, backbone: Backbone, *, mixed: bool = False) -> None:
        super().__init__(backbone)
        self.mixed = mixed

    def equip(self, added: Mapping[str, nn.Module] | None = None, *, layout: Any = None) -> None:
        trained = parameters_of(tensor_names(self.backbone.folder), self.model)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in trained)
            if name not in trained:
                continue
            if parameter.dtype != torch.float32:
                kind = str(parameter.dtype).removeprefix("torch.")
                raise SettingError(
                    f"'{name}' is {kind}; training all parameters needs float32 weights"
                )
        turn_dropout_off(self.model)

    def write(
        self, folder: Path, manifest: Mapping[str, Any], added: Mapping[str, nn.Module]
    ) -> None:
        write_copy(self.backbone.folder, self.model, folder)
        write_json(folder / MANIFEST, {"kind": "checkpoint", **manifest})


def store_in(dtype: torch.dtype, model: nn.Module, added: Mapping[str, nn.Module]) -> None:
    """Round a model's parameters, but for those of the modules `added`: rounded scores would tie.
    Not the buffers either: rotations stay in float32."""
    heads = {id(p) for module in added.values() for p in module.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in heads:
            parameter.data = parameter.data.to(dtype)
