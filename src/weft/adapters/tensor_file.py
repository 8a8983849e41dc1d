"""Safetensors files read and written a tensor at a time, without mapping them into memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from weft.artifacts.tensors import Stored, lay_out, open_weights, read_header, read_into

Plan = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]  # name -> dtype, shape


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file whose header has been checked. Reading is safe from several threads."""

    path: Path
    tensors: Mapping[str, Stored]

    def read(self, name: str) -> Tensor:
        """One tensor, in its own dtype and in memory of its own."""
        stored = self.tensors[name]
        values = torch.empty(stored.shape, dtype=stored.dtype)
        descriptor = open_weights(self.path)
        try:
            raw = values.reshape(-1).view(torch.uint8).numpy()
            read_into(descriptor, raw.data, stored.start, self.path)
        finally:
            os.close(descriptor)
        return values


def open_tensors(path: Path) -> TensorFile:
    """Read the header of a safetensors file; anything wrong with it is a `DataError`."""
    return TensorFile(path, read_header(path).tensors)


def write_tensors(path: Path, plan: Plan, read: Callable[[str], Tensor]) -> None:
    """Write a safetensors file of the planned tensors, each asked of `read` when its turn comes."""
    layout = lay_out([(name, dtype, shape) for name, (dtype, shape) in plan.items()])
    with path.open("wb") as file:
        file.write(layout.header)
        for name, stored in layout.tensors.items():
            values = read(name).to(stored.dtype).contiguous()
            file.write(values.reshape(-1).view(torch.uint8).numpy().data)
