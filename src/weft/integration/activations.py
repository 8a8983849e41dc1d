"""Frozen activations on disk: computed once, read again in later epochs and trainings."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from weft.artifacts.atomic import new_file
from weft.errors import WeftError

BUDGET = 8 << 30


class Activations:
    """A folder of tensors by name. It takes no more once it and the folders beside it hold `budget`
    bytes.

    Several processes may use one folder: a tensor is written aside and renamed. What can't be read
    or written is computed again, so the folder may be emptied at any time. `hits` and `misses`
    count the calls of `get`.
    """

    def __init__(self, folder: Path, budget: int = BUDGET) -> None:
        self.folder, self.budget = folder, budget
        folder.mkdir(parents=True, exist_ok=True)
        self._used = 0
        for file in folder.parent.glob("*/*.safetensors"):
            with suppress(OSError):  # another process may be done with it
                self._used += file.stat().st_size
        self.hits = self.misses = 0

    def get(self, name: str) -> Tensor | None:
        """The tensor of that name, or None if there is none."""
        path = self.folder / f"{name}.safetensors"
        try:
            tensor = load_file(path)["states"] if path.is_file() else None
        except (SafetensorError, OSError, KeyError):
            tensor = None
        self.hits += tensor is not None
        self.misses += tensor is None
        return tensor

    def put(self, name: str, tensor: Tensor) -> None:
        """Store a tensor if there is room for it."""
        size = tensor.numel() * tensor.element_size()
        if self._used + size > self.budget:
            return
        self._used += size
        with (
            suppress(OSError, SafetensorError, WeftError),
            new_file(self.folder / f"{name}.safetensors") as file,
        ):
            save_file({"states": tensor.detach().cpu().contiguous()}, file)


def join_padded(parts: Sequence[Tensor], tokens: int) -> Tensor:
    """[s, Σ rows, tokens, d] of parts [s, rows, fewer tokens, d], padded with zeros on the right.

    If every part holds one token, the parts are pooled already and none is padded.

    >>> short, long = torch.ones(1, 1, 2, 1), torch.full((1, 1, 3, 1), 2.0)
    >>> join_padded([short, long], tokens=3).flatten(2).tolist()
    [[[1.0, 1.0, 0.0], [2.0, 2.0, 2.0]]]
    """
    width = max(part.shape[2] for part in parts)
    tokens = tokens if width > 1 else 1
    padded = [torch.nn.functional.pad(part, (0, 0, 0, tokens - part.shape[2])) for part in parts]
    return torch.cat(padded, dim=1)
