"""The files behind a source, however it is seen."""

from __future__ import annotations

from weft.merging.checkpoints.checkpoint import Checkpoint
from weft.merging.engine.source import TensorSource


def checkpoint_of(source: TensorSource | None) -> Checkpoint | None:
    """The checkpoint whose tensors a source gives, under other names or with rows elsewhere; None
    for what is computed from several, or lies in memory."""
    while source is not None and not isinstance(source, Checkpoint):
        source = getattr(source, "source", None)
    return source


def signature_of(source: TensorSource) -> list[str]:
    """What beside its files decides what a source gives."""
    signatures: list[str] = []
    step: TensorSource | None = source
    while step is not None and not isinstance(step, Checkpoint):
        signatures += [getattr(step, "signature", "")]
        step = getattr(step, "source", None)
    return [one for one in signatures if one]
