"""A training run's state on disk: all that is needed to go on to the same bits."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from weft.artifacts.atomic import new_file
from weft.artifacts.documents import parse_json
from weft.artifacts.hashing import hash_arrays
from weft.artifacts.leftovers import remove_leftovers

FILE = "checkpoint.safetensors"
Named = list[tuple[str, nn.Parameter]]


@dataclass
class Progress:
    """Where a run stands. `curve` holds (step, mean loss since the last point, validation),
    `ending` (loss, mean ln of the batches' sizes) of each of the last steps, `best_ending` the same
    as of the best validation."""

    step: int = 0
    curve: list[tuple[int, float | None, float | None]] = field(default_factory=list)
    loss_sum: float = 0.0
    loss_count: int = 0
    best: float | None = None
    best_step: int = 0
    waited: int = 0
    stopped: bool = False
    ending: list[tuple[float, float]] = field(default_factory=list)
    best_ending: list[tuple[float, float]] = field(default_factory=list)


class Saver:
    """When to save: so many seconds after the start or the last save, by a clock that never goes
    back, and every so many steps. Seconds run from the end of a save, so that slow disks don't make
    saving all that is done."""

    def __init__(
        self, steps: int | None, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.steps, self.seconds, self.clock = steps, seconds, clock
        self.last = clock()

    def due(self, step: int) -> bool:
        """Whether the state after this step (from 1) is to be saved."""
        every = self.steps is not None and step % self.steps == 0
        return every or self.clock() - self.last >= self.seconds

    def saved(self) -> None:
        """A save has ended."""
        self.last = self.clock()


def save_checkpoint(
    folder: Path,
    key: str,
    progress: Progress,
    parameters: Named,
    optimizer: torch.optim.Optimizer,
    best: dict[str, Tensor],
) -> None:
    """Write everything to one file that appears by rename: a kill leaves the old one whole."""
    tensors: dict[str, Tensor] = {f"best.{name}": tensor for name, tensor in best.items()}
    for name, parameter in parameters:
        tensors[f"parameter.{name}"] = parameter.detach()
        for slot, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{name}.{slot}"] = torch.as_tensor(value)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with new_file(folder / FILE) as temporary:
        state = json.dumps(vars(progress))
        metadata = {"key": key, "progress": state, "hash": _hash(tensors, state)}
        save_file(tensors, temporary, metadata=metadata)


def _hash(tensors: dict[str, Tensor], state: str) -> str:
    """Of every bit of the state: a damaged checkpoint is no checkpoint."""
    arrays = {n: t.reshape(-1).view(torch.uint8).numpy() for n, t in tensors.items()}
    return hash_arrays(arrays, state)


def load_checkpoint(
    folder: Path, key: str, parameters: Named, optimizer: torch.optim.Optimizer
) -> tuple[Progress, dict[str, Tensor]] | None:
    """Put a saved state back; none, a damaged one, or one of other settings or data, gives None.

    What a killed run left half-written is removed.
    """
    remove_leftovers(folder, FILE)
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, Any] = file.metadata() or {}
            if metadata.get("key") != key:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        return None
    if metadata.get("hash") != _hash(tensors, metadata["progress"]):
        return None
    with torch.no_grad():
        for name, parameter in parameters:
            parameter.copy_(tensors[f"parameter.{name}"])
            prefix = f"optimizer.{name}."
            state = {
                slot.removeprefix(prefix): value
                for slot, value in tensors.items()
                if slot.startswith(prefix)
            }
            if state:
                optimizer.state[parameter] = {
                    slot: value if slot == "step" else value.to(parameter.device)
                    for slot, value in state.items()
                }
    progress = Progress(**parse_json(metadata["progress"], path))
    progress.curve = [(int(s), loss, value) for s, loss, value in progress.curve]
    progress.ending = [(loss, size) for loss, size in progress.ending]
    progress.best_ending = [(loss, size) for loss, size in progress.best_ending]
    best = {n.removeprefix("best."): t for n, t in tensors.items() if n.startswith("best.")}
    return progress, best
