"""A cross-encoder whose hidden states come from several frozen adapters, integrated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from weft.adapters import Adapter, LoraSettings, check_backbone
from weft.adapters.lora import turn_dropout_off
from weft.artifacts.hashing import hash_json
from weft.backbones import Backbone
from weft.backbones.blocks import Blocks
from weft.data.domain import Catalogue, Examples
from weft.errors import WeftError
from weft.integration import make_integrator
from weft.integration.activations import BUDGET, Activations, joined
from weft.integration.kinds import AnyIntegratorSettings
from weft.recommenders.cross_encoder import CrossEncoder, CrossEncoderSettings

OWN = "integrator."  # where the integrator's tensors are among a model's


class Integrated(CrossEncoder):
    """A backbone, frozen adapters, an integrator over them, and a head.

    The head starts as that of the adapter `best` (its place). Integrator and head, float32, are all
    that can be trained; `tensors` are trained values of them. With `activations`, a folder, what
    training never changes is computed once for each example, as long as it takes no more than
    `budget` bytes. Raises a `WeftError` for adapters of another backbone, without a head, or whose
    head has another shape, for too few of them and for too many integrated blocks.
    """

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

    def know(self, train: Examples) -> None:
        super().know(train)
        self._activations = None  # other candidates are drawn from now on

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
        count = {"integrator": 0, "head": 0}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                count["integrator" if name.startswith(OWN) else "head"] += parameter.numel()
        return count

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
        kept = self._activations
        names = [
            hash_json([batch.domain.hash, user, end])[:32]
            for user, end in zip(batch.user.tolist(), batch.end.tolist(), strict=True)
        ]
        found = [kept.get(name) for name in names]
        each = len(ids) // len(batch)
        for place, (name, known) in enumerate(zip(names, found, strict=True)):
            if known is not None:
                continue
            part = slice(place * each, (place + 1) * each)
            length = int(mask[part].sum(1).max())
            made = self.integrator.frozen(ids[part, :length], mask[part, :length])
            found[place] = made.view(self.integrator.streams, each, *made.shape[1:])
            kept.put(name, found[place])  # type: ignore[arg-type]
        parts = [one.to(ids.device) for one in found if one is not None]
        return joined(parts, ids.shape[1]).flatten(0, 1)

    def _frozen_key(self) -> str:
        """Of everything that frozen activations depend on, beside the example."""
        return hash_json(
            [
                self.backbone.fingerprint,
                [one.weights_hash for one in self.adapters],
                self.integrator.frozen_by,
                self.settings.model_dump(mode="json"),
                str(next(self.model.parameters()).dtype),
                [counts.tolist() for _, counts in self._counts.values()],
            ]
        )[:32]
