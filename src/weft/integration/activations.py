"""Frozen activations kept on disk from one epoch, and one training, to the next."""

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
    """A folder of tensors by name, which takes no more once `budget` bytes are in it and the folders
    beside it.

    Several processes may use one folder: a tensor is written aside and renamed. What can't be read
    or written is computed again, so the folder may be emptied at any time.
    """

    def __init__(self, folder: Path, budget: int = BUDGET) -> None:
        self.folder, self.budget = folder, budget
        folder.mkdir(parents=True, exist_ok=True)
        self._used = 0
        for file in folder.parent.glob("*/*.safetensors"):
            with suppress(OSError):  # another process may be done with it
                self._used += file.stat().st_size
        self.found = self.missed = 0

    def get(self, name: str) -> Tensor | None:
        """A tensor, or None where there is none."""
        path = self.folder / f"{name}.safetensors"
        try:
            tensor = load_file(path)["states"] if path.is_file() else None
        except (SafetensorError, OSError, KeyError):
            tensor = None
        self.found += tensor is not None
        self.missed += tensor is None
        return tensor

    def put(self, name: str, tensor: Tensor) -> None:
        """Keep a tensor if there is room for it."""
        size = tensor.numel() * tensor.element_size()
        if self._used + size > self.budget:
            return
        self._used += size
        with (
            suppress(OSError, SafetensorError, WeftError),
            new_file(self.folder / f"{name}.safetensors") as file,
        ):
            save_file({"states": tensor.detach().cpu().contiguous()}, file)


def joined(parts: Sequence[Tensor], tokens: int) -> Tensor:
    """[s, Σ rows, tokens, d] of parts [s, rows, fewer tokens, d], filled up with zeros on the right.

    Parts of one token are pooled already and stay as they are.
    """
    width = max(part.shape[2] for part in parts)
    tokens = tokens if width > 1 else 1
    padded = [torch.nn.functional.pad(part, (0, 0, 0, tokens - part.shape[2])) for part in parts]
    return torch.cat(padded, dim=1)
