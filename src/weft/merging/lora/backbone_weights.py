"""Adapters that know their backbone by its name alone, put on the weights that a person names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from weft.adapters import Adapter, check_backbone
from weft.artifacts.hashing import hash_file
from weft.backbones.load import fingerprint_of
from weft.backbones.names import StatedBackbone
from weft.errors import MismatchError
from weft.merging.engine.source import TensorSource
from weft.merging.lora.module_names import bare
from weft.merging.lora.shared_backbone import put_backbone


def lacks_fingerprint(adapter: Adapter) -> bool:
    """Whether an adapter has only the name of its backbone, as PEFT's folders do."""
    return StatedBackbone.of(adapter.manifest["backbone"]).fingerprint is None


def state_backbone(
    adapters: Sequence[Adapter],
    labels: Sequence[str],
    name: str,
    folder: Path,
    weights: TensorSource,
) -> tuple[Adapter, ...]:
    """The adapters as those of the backbone `name`, whose weights lie in a folder or file.

    Every module must be there in its shape (or turned, as some models store linear layers). An
    adapter that has a fingerprint must have that of these weights. Raises `WeftError`.
    """
    fingerprint = fingerprint_of(folder) if folder.is_dir() else hash_file(folder)
    stated = {"name": name, "fingerprint": fingerprint}
    shapes = {bare(tensor): spec.shape for tensor, spec in weights.specs.items()}
    stated_adapters = []
    for label, adapter in zip(labels, adapters, strict=True):
        if not lacks_fingerprint(adapter):
            check_backbone(adapter, name, fingerprint)
            stated_adapters.append(adapter)
            continue
        _check_shapes(label, adapter, shapes, name)
        stated_adapters.append(put_backbone(adapter, stated))
    return tuple(stated_adapters)


def _check_shapes(
    label: str, adapter: Adapter, shapes: dict[str, tuple[int, ...]], name: str
) -> None:
    for module, shape in adapter.shapes.items():
        there = shapes.get(bare(f"{module}.weight"))
        if there is None:
            raise MismatchError(
                f"{label} has the module '{module}', but the backbone {name} has no such weight"
            )
        if there not in (shape.delta, shape.delta[::-1]):
            raise MismatchError(
                f"module '{module}' of {label} is {list(shape.delta)}, and {list(there)} in the "
                f"backbone {name}"
            )
