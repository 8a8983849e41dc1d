"""A backbone whose hidden states come from several frozen adapters, integrated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weft.adapters import Adapter, check_backbone
from weft.adapters.lora import turn_dropout_off
from weft.artifacts.hashing import hash_arrays, hash_json
from weft.artifacts.versions import library_versions
from weft.backbones import Backbone
from weft.backbones.blocks import Blocks
from weft.errors import MismatchError
from weft.integration import make_integrator
from weft.integration.activations import BUDGET, Activations, join_padded
from weft.integration.integrator import IntegratorSettings
from weft.recommenders.equipped import EquippedBackbone
from weft.recommenders.integrator_folder import TrainedIntegrator, write_integrator

STORED = 1  # raised when frozen activations become others, so that old ones are not taken


@dataclass(frozen=True)
class StoredActivations:
    """Where training stores what it never changes, for each example: a folder, and the bytes that it
    may take."""

    folder: Path
    budget: int = BUDGET


class IntegratedBackbone(EquippedBackbone):
    """A backbone, frozen adapters, and an integrator over them.

    A recommender's own modules start as those of the adapter `best` (its place). They and the
    integrator, float32, are all that is trained; `tensors` are trained values of them. With
    `activations` what training never changes is computed once for each example. Raises a
    `MismatchError` for adapters of another backbone, without the recommender's modules or with
    modules of another shape; a `WeftError` for too few of them or too many integrated blocks.
    """

    in_training = True
    integrated = True
    checkpoints_gradients = False  # what a block computes again would not be what it was

    def __init__(
        self,
        backbone: Backbone,
        adapters: Sequence[Adapter],
        integrator: IntegratorSettings,
        *,
        best: int = 0,
        seed: int = 0,
        tensors: Mapping[str, Tensor] | None = None,
        activations: StoredActivations | None = None,
    ) -> None:
        super().__init__(backbone, seed)
        self.adapters, self.settings, self.best = adapters, integrator, best
        self._tensors = tensors
        self._stored = activations
        self._activations: Activations | None = None
        self._added: Mapping[str, nn.Module] = {}
        self._layout: Any = None

    def equip(self, added: Mapping[str, nn.Module] | None = None, *, layout: Any = None) -> None:
        """Stack the adapters in the model, and take over the best one's modules."""
        self._added, self._layout = added or {}, layout
        for one in self.adapters:
            check_backbone(one, self.backbone.name, self.backbone.fingerprint)
        self._check_added()
        turn_dropout_off(self.model)
        blocks = Blocks(self.model)
        self.integrator = make_integrator(blocks, self.adapters, self.settings, self.seed)
        self.model.add_module("integrator", self.integrator)
        with torch.no_grad():
            for name, module in self._added.items():
                for key, tensor in module.state_dict().items():
                    tensor.copy_(self.adapters[self.best].saved[f"{name}.{key}"])
        for module in (self.integrator, *self._added.values()):
            module.float().requires_grad_(True)
        if self._tensors is not None:
            self._take(self._tensors)

    @property
    def weights_hash(self) -> str:
        return self.trained({}).weights_hash

    def _check_added(self) -> None:
        shapes = {
            f"{n}.{k}": t.shape for n, m in self._added.items() for k, t in m.state_dict().items()
        }
        for place, adapter in enumerate(self.adapters, start=1):
            for name, shape in shapes.items():
                if name not in adapter.saved:
                    raise MismatchError(
                        f"adapter {place} has no '{name}': it is no cross-encoder's"
                    )
                if adapter.saved[name].shape != shape:
                    raise MismatchError(
                        f"adapter {place}: '{name}' has the shape {list(adapter.saved[name].shape)}, "
                        f"and the backbone's head {list(shape)}"
                    )

    def tensors(self) -> dict[str, Tensor]:
        """Copies of everything that training changes: integrator and added modules, by name."""
        return {
            name: parameter.detach().cpu().clone()
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
        }

    def _take(self, tensors: Mapping[str, Tensor]) -> None:
        parameters = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        for name in sorted(set(parameters) ^ set(tensors)):
            where = "lacks" if name in parameters else "has"
            raise MismatchError(f"the integrator's file {where} the tensor '{name}'")
        with torch.no_grad():
            for name, parameter in parameters.items():
                if parameter.shape != tensors[name].shape:
                    raise MismatchError(
                        f"the integrator's tensor '{name}' has the shape "
                        f"{list(tensors[name].shape)}, not {list(parameter.shape)}"
                    )
                parameter.copy_(tensors[name])

    def trainable(self) -> dict[str, int]:
        """How many numbers are trained: of the `integrator`, and of the `head` (pooler, scorer)."""
        head = sum(p.numel() for module in self._added.values() for p in module.parameters())
        return {"integrator": self.integrator.parameter_count, "head": head}

    def trained(self, manifest: Mapping[str, Any]) -> TrainedIntegrator:
        """What was trained so far, with its adapters."""
        values = {"best": self.best, **manifest}
        return TrainedIntegrator(self.settings, self.tensors(), self.adapters, values)

    def write(
        self, folder: Path, manifest: Mapping[str, Any], added: Mapping[str, nn.Module]
    ) -> None:
        write_integrator(self.trained(manifest), folder)

    # --- states

    def hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.integrator.rest(ids, mask, self.integrator.frozen(ids, mask))

    def training_hidden(self, ids: Tensor, mask: Tensor, examples: int) -> Tensor:
        """Frozen activations come from the disk where they are there."""
        return self.integrator.rest(ids, mask, self._frozen(ids, mask, examples))

    def _frozen(self, ids: Tensor, mask: Tensor, examples: int) -> Tensor:
        """[s · n, tokens, d] for a batch's prompts."""
        if self._stored is None:
            return self.integrator.frozen(ids, mask)
        if self._activations is None:
            folder = self._stored.folder / self._frozen_key()
            self._activations = Activations(folder, self._stored.budget)
        stored, each = self._activations, len(ids) // examples
        parts = [slice(place * each, (place + 1) * each) for place in range(examples)]
        widths = [int(mask[part].sum(1).max()) for part in parts]
        names = [
            hash_arrays({"ids": ids[p, :w].cpu().numpy(), "mask": mask[p, :w].cpu().numpy()})[:32]
            for p, w in zip(parts, widths, strict=True)
        ]
        ready: list[Tensor] = []
        for name, part, width in zip(names, parts, widths, strict=True):
            activations = stored.get(name)
            if activations is None:
                computed = self.integrator.frozen(ids[part, :width], mask[part, :width])
                activations = computed.view(self.integrator.streams, each, *computed.shape[1:])
                stored.put(name, activations)
            ready.append(activations.to(ids.device))
        return join_padded(ready, ids.shape[1]).flatten(0, 1)

    def _frozen_key(self) -> str:
        """Of everything that frozen activations depend on, beside the prompts."""
        parameter = next(self.model.parameters())
        return hash_json(
            [
                STORED,
                library_versions(),
                self.backbone.fingerprint,
                [one.weights_hash for one in self.adapters],
                self.integrator.frozen_by,
                self._layout,
                [str(parameter.dtype), parameter.device.type],
            ]
        )[:32]
