"""A cross-encoder whose hidden states come from several frozen adapters, integrated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from weft.adapters import Adapter, LoraSettings, check_backbone
from weft.adapters.lora import turn_dropout_off
from weft.artifacts.hashing import hash_arrays, hash_json
from weft.backbones import Backbone
from weft.backbones.blocks import Blocks
from weft.data.domain import Catalogue, Examples
from weft.errors import WeftError
from weft.integration import make_integrator
from weft.integration.activations import BUDGET, Activations, joined
from weft.integration.kinds import AnyIntegratorSettings
from weft.recommenders.cross_encoder import CrossEncoder, CrossEncoderSettings
from weft.stages.stage import library_versions

KEPT = 1  # raised when frozen activations become others, so that old ones are not found


class Integrated(CrossEncoder):
    """A backbone, frozen adapters, an integrator over them, and a head.

    The head starts as that of the adapter `best` (its place). Integrator and head, float32, are all
    that can be trained; `tensors` are trained values of them. With `activations`, a folder, what
    training never changes is computed once for each example, as long as it takes no more than
    `budget` bytes. Raises a `WeftError` for adapters of another backbone, without a head, or whose
    head has another shape, for too few of them and for too many integrated blocks.
    """

    checkpoints_gradients = False  # what a block computes again would not be what it was

    def __init__(
        self,
        backbone: Backbone,
        settings: CrossEncoderSettings,
        adapters: Sequence[Adapter],
        integrator: AnyIntegratorSettings,
        catalogue: Catalogue | None = None,
        *,
        best: int = 0,
        seed: int = 0,
        tensors: Mapping[str, Tensor] | None = None,
        activations: Path | None = None,
        budget: int = BUDGET,
    ) -> None:
        self.adapters, self._how, self._best, self._seed = adapters, integrator, best, seed
        super().__init__(backbone, settings, catalogue)
        if tensors is not None:
            self._take(tensors)
        self._folder, self._budget = activations, budget
        self._activations: Activations | None = None

    def _equip(self, adapter: Adapter | None, lora: LoraSettings | None, lora_seed: int) -> None:
        """Stack the adapters in the model, and take over the best one's head."""
        for one in self.adapters:
            check_backbone(one, self.backbone.name, self.backbone.fingerprint)
        self._check_heads()
        turn_dropout_off(self.model)
        blocks = Blocks(self.model)
        self.integrator = make_integrator(blocks, self.adapters, self._how, self._seed)
        self.model.add_module("integrator", self.integrator)
        self.attached = {}
        with torch.no_grad():
            for name, module in self.head.items():
                for key, tensor in module.state_dict().items():
                    tensor.copy_(self.adapters[self._best].saved[f"{name}.{key}"])
        for module in (self.integrator, *self.head.values()):
            module.float().requires_grad_(True)

    def _check_heads(self) -> None:
        own = {f"{n}.{k}": t.shape for n, m in self.head.items() for k, t in m.state_dict().items()}
        for place, adapter in enumerate(self.adapters, start=1):
            for name, shape in own.items():
                if name not in adapter.saved:
                    raise WeftError(f"adapter {place} has no '{name}': it is no cross-encoder's")
                if adapter.saved[name].shape != shape:
                    raise WeftError(
                        f"adapter {place}: '{name}' has the shape {list(adapter.saved[name].shape)}, "
                        f"and the backbone's head {list(shape)}"
                    )

    def trained(self) -> dict[str, Tensor]:
        """Copies of everything that training changes: integrator and head, by name."""
        return {
            name: parameter.detach().cpu().clone()
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
        }

    def _take(self, tensors: Mapping[str, Tensor]) -> None:
        own = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        for name in sorted(set(own) ^ set(tensors)):
            where = "lacks" if name in own else "has"
            raise WeftError(f"the integrator's file {where} the tensor '{name}'")
        with torch.no_grad():
            for name, parameter in own.items():
                if parameter.shape != tensors[name].shape:
                    raise WeftError(
                        f"the integrator's tensor '{name}' has the shape "
                        f"{list(tensors[name].shape)}, not {list(parameter.shape)}"
                    )
                parameter.copy_(tensors[name])

    def trainable(self) -> dict[str, int]:
        """How many numbers are trained: of the `integrator`, and of the `head` (pooler, scorer)."""
        head = sum(p.numel() for module in self.head.values() for p in module.parameters())
        return {"integrator": self.integrator.numbers, "head": head}

    # --- states

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        frozen = self.integrator.frozen(ids, mask)
        return self.pooled_token(self.integrator.rest(ids, mask, frozen), mask)

    def loss(self, batch: Examples) -> Tensor:
        """As a cross-encoder's; frozen activations come from the disk where they are there."""
        rows = self.training_rows(batch)
        ids, mask = self.inputs(rows, np.arange(len(rows)))
        frozen = self._frozen(batch, ids, mask)
        return self.choice_loss(
            self.pooled_token(self.integrator.rest(ids, mask, frozen), mask), len(batch)
        )

    def _frozen(self, batch: Examples, ids: Tensor, mask: Tensor) -> Tensor:
        """[s · n, tokens, d] for a batch's prompts."""
        if self._folder is None:
            return self.integrator.frozen(ids, mask)
        if self._activations is None:
            self._activations = Activations(self._folder / self._frozen_key(), self._budget)
        kept, each = self._activations, len(ids) // len(batch)
        parts = [slice(place * each, (place + 1) * each) for place in range(len(batch))]
        widths = [int(mask[part].sum(1).max()) for part in parts]
        names = [
            hash_arrays({"ids": ids[p, :w].cpu().numpy(), "mask": mask[p, :w].cpu().numpy()})[:32]
            for p, w in zip(parts, widths, strict=True)
        ]
        found = [kept.get(name) for name in names]
        for place, (part, width) in enumerate(zip(parts, widths, strict=True)):
            if found[place] is not None:
                continue
            made = self.integrator.frozen(ids[part, :width], mask[part, :width])
            found[place] = made.view(self.integrator.streams, each, *made.shape[1:])
            kept.put(names[place], found[place])  # type: ignore[arg-type]
        ready = [one.to(ids.device) for one in found if one is not None]
        return joined(ready, ids.shape[1]).flatten(0, 1)

    def _frozen_key(self) -> str:
        """Of everything that frozen activations depend on, beside the prompts."""
        parameter = next(self.model.parameters())
        return hash_json(
            [
                KEPT,
                library_versions(),
                self.backbone.fingerprint,
                [one.weights_hash for one in self.adapters],
                self.integrator.frozen_by,
                self._first,
                [str(parameter.dtype), parameter.device.type],
            ]
        )[:32]
