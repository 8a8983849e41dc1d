"""Merging sources into a folder, with everything stated by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from weft.merging.checkpoints.folder_merge import CheckpointOutput, merge_into_folder
from weft.merging.engine.source import TensorSource
from weft.merging.engine.stream import Merge
from weft.merging.limits import MergeLimits
from weft.merging.methods import make_method


def merge_into(
    parts: Sequence[TensorSource],
    out: Path,
    method: Any,
    weights: Callable[[str], Sequence[float]],
    *,
    base: TensorSource | None = None,
    **settings: Any,
) -> None:
    limits = {name: settings.pop(name) for name in ("threads", "memory") if name in settings}
    progress = settings.pop("progress", None)
    merge = Merge(parts, make_method(method), weights, base)
    merge_into_folder(merge, out, CheckpointOutput(**settings), MergeLimits(**limits), progress)
