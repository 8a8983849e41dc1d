"""The weights of a recommender that has no backbone, as one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from weft.artifacts.hashing import hash_arrays
from weft.errors import MismatchError

if TYPE_CHECKING:
    from torch import nn

WEIGHTS = "model.safetensors"


def write_model(model: nn.Module, folder: Path) -> None:
    """Write all tensors of a module that has no backbone."""
    from weft.adapters.tensor_file import write_tensors

    tensors = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    plan = {name: (t.dtype, tuple(t.shape)) for name, t in tensors.items()}
    write_tensors(folder / WEIGHTS, plan, tensors.__getitem__)


def read_model(model: nn.Module, folder: Path) -> None:
    """Put the tensors of `write_model` into a module of the same shapes; else a `MismatchError`."""
    from weft.adapters.tensor_file import open_tensors

    file = open_tensors(folder / WEIGHTS)
    try:
        model.load_state_dict({name: file.read(name) for name in file.tensors})
    except RuntimeError as error:
        words = " ".join(str(error).split())
        raise MismatchError(f"{folder / WEIGHTS} does not fit its recommender: {words}") from None


def model_hash(model: nn.Module) -> str:
    """Of all tensors of a module, by name."""
    return hash_arrays({n: t.detach().cpu().float().numpy() for n, t in model.state_dict().items()})
