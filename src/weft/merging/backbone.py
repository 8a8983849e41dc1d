"""Adapters that name their backbone in words alone, put on weights that someone says it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from weft.adapters import Adapter, check_backbone
from weft.artifacts.hashing import hash_file
from weft.backbones.load import fingerprint_of
from weft.backbones.names import StatedBackbone
from weft.errors import WeftError
from weft.merging.engine.source import Source
from weft.merging.lora.backbone import put_backbone
from weft.merging.lora.names import bare


def lacks_fingerprint(adapter: Adapter) -> bool:
    """Whether an adapter says only what its backbone is called, as PEFT's folders do."""
    return StatedBackbone.of(adapter.manifest["backbone"]).fingerprint is None


def state_backbone(
    adapters: Sequence[Adapter], labels: Sequence[str], name: str, folder: Path, weights: Source
) -> tuple[Adapter, ...]:
    """The adapters as those of the backbone `name`, whose weights lie in a folder or file.

    Every module must be there in its shape (or turned, as some models store linear layers). An
    adapter that has a fingerprint must have that of these weights. Raises `WeftError`.
    """
    own = fingerprint_of(folder) if folder.is_dir() else hash_file(folder)
    stated = {"name": name, "fingerprint": own}
    shapes = {bare(tensor): spec.shape for tensor, spec in weights.specs.items()}
    found = []
    for label, adapter in zip(labels, adapters, strict=True):
        if not lacks_fingerprint(adapter):
            check_backbone(adapter, name, own)
            found.append(adapter)
            continue
        _check_shapes(label, adapter, shapes, name)
        found.append(put_backbone(adapter, stated))
    return tuple(found)


def _check_shapes(
    label: str, adapter: Adapter, shapes: dict[str, tuple[int, ...]], name: str
) -> None:
    for module, shape in adapter.shapes.items():
        there = shapes.get(bare(f"{module}.weight"))
        if there is None:
            raise WeftError(
                f"{label} has the module '{module}', but the backbone {name} has no such weight"
            )
        if there not in (shape.delta, shape.delta[::-1]):
            raise WeftError(
                f"module '{module}' of {label} is {list(shape.delta)}, and {list(there)} in the "
                f"backbone {name}"
            )
