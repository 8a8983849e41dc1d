"""Merging checkpoints into a folder: bounded memory, whole or absent, going on after a kill."""

from __future__ import annotations

import hashlib
import math
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3

from weft import __version__
from weft.artifacts.atomic import check_folder
from weft.artifacts.hashing import hash_json
from weft.artifacts.staging import staged
from weft.errors import SettingError, WriteError, notice
from weft.merging.checkpoints.checkpoint import Checkpoint
from weft.merging.checkpoints.companion_files import check_modules, notes_of_files, owner_of_files
from weft.merging.checkpoints.compatibility import check_fitting
from weft.merging.checkpoints.model_card import (
    Parent,
    Story,
    carry_recommender,
    copy_companions,
    write_index,
    write_story,
)
from weft.merging.checkpoints.reconcile import bring_together
from weft.merging.checkpoints.shards import FolderSink, Shard, plan_shards
from weft.merging.checkpoints.source_files import checkpoint_of, signature_of
from weft.merging.checkpoints.views import Absent
from weft.merging.engine.method import Method
from weft.merging.engine.source import TensorSource
from weft.merging.engine.stream import Merge, bytes_to_read, measured, pieces, stream
from weft.merging.limits import NO_LIMITS, MergeLimits, MergeProgress, ReportProgress
from weft.merging.methods.registry import method_options
from weft.merging.vocabulary.align import Aligned
from weft.merging.vocabulary.rules import TokenizerRules

_FORMAT = 1  # raised when the same plan gives other bytes
_BESIDE = 256 << 20  # bytes of memory beside the tensors, unless stated
_FIXED = 48 << 20  # bytes whatever the number of threads
_REPORT_EVERY = 0.1  # seconds


@dataclass(frozen=True, kw_only=True)
class CheckpointOutput:
    """The folder that comes out of a merge of checkpoints.

    Tensors get `dtype`, or keep that of the first part. Files hold at most `shard_bytes` of data
    unless one tensor is larger. `recipe` goes into `weft.json` and the card as it is. `tokenizer`
    says whose vocabulary comes out; without it, rows of embeddings must mean the same tokens in
    all parts (`weft.merging.checkpoints.reconcile`).
    """

    dtype: torch.dtype | None = None
    shard_bytes: int = 5_000_000_000
    recipe: Mapping[str, Any] | None = None
    tokenizer: TokenizerRules | None = None


_USUAL_OUTPUT = CheckpointOutput()


def merge_into_folder(
    merge: Merge,
    out: Path,
    output: CheckpointOutput = _USUAL_OUTPUT,
    limits: MergeLimits = NO_LIMITS,
    progress: ReportProgress | None = None,
) -> None:
    """Merge K parts into the folder `out`, tensor by tensor, never holding a model in memory.

    The first part's configuration and tokenizer files are copied too (where it has none, those of
    the base or of the next part that has some); integer tensors must be the same everywhere. Of
    the files beside the weights, those that are not copied are named in a notice. A part whose
    every weight is 0 is not read.

    Memory beyond the bare process stays below `limits.memory` bytes, by default (K + 2) times the
    largest tensor + 256 MB; `limits.threads` is how many compute, fewer where memory asks for it.
    The result has the same bits whatever these are. `out` appears at the end by one rename. The
    same call after a kill goes on with the first file that is not finished.

    Raises `WeftError`, in one sentence, for parts that don't fit, hold NaN or infinity or can't
    be read, a value too large for the dtype, an `out` that exists, and too little disk or memory.
    """
    out = Path(out)
    check_folder(out, new=True)
    merge = _prepared(merge, output)
    plan = _OutputPlan.of(merge, output, _threads(merge, limits))
    owner = owner_of_files(merge.parts, merge.base)
    notes = notes_of_files(owner, merge.parts)
    for note in notes:
        notice(note)
    with staged(out, plan.key) as folder:
        with FolderSink(folder, plan.shards, out) as sink:
            _check_room(out, plan.shards, sink)
            meter = _Meter(bytes_to_read(merge, sink.wants), progress)
            stream(merge, sink, threads=plan.threads, progress=meter.add)
            story = plan.story(sink.close(), owner, notes)
            meter.report()
        write_index(folder, plan.shards)
        if owner is not None:
            first = merge.parts[0]
            copy_companions(
                owner, folder, output.dtype, first.output if isinstance(first, Aligned) else None
            )
        write_story(folder, out.name, story, None if owner is None else owner.config)
        carry_recommender([one for one in merge.parts if not isinstance(one, Absent)], folder)


def _prepared(merge: Merge, output: CheckpointOutput) -> Merge:
    """The merge with sources that fit each other; what can't be merged is refused."""
    absent = _absent(merge.parts, merge.weights)
    ready = bring_together(
        merge.parts,
        merge.base,
        merge.method,
        absent=absent,
        tokenizer=output.tokenizer,
        dtype=output.dtype,
    )
    merge = replace(merge, parts=ready.parts, base=ready.base)
    check_fitting(merge, output.dtype)
    check_modules(merge.parts)
    if output.dtype is not None and not output.dtype.is_floating_point:
        kind = str(output.dtype).removeprefix("torch.")
        raise SettingError(f"dtype must be one of floating point numbers, not {kind}")
    return merge


@dataclass(frozen=True, eq=False)
class _OutputPlan:
    """What decides the bytes of the output, and the record of where they are from."""

    merge: Merge
    output: CheckpointOutput
    threads: int
    shards: Sequence[Shard]
    weights: Mapping[str, Sequence[float]]  # of every tensor that is merged
    contents: Sequence[str | None]  # of each source without files, a hash

    @classmethod
    def of(cls, merge: Merge, output: CheckpointOutput, threads: int) -> _OutputPlan:
        specs = merge.parts[0].specs
        shards = plan_shards(specs, output.shard_bytes, output.dtype)
        weights = {name: merge.weights(name) for name, spec in specs.items() if measured(spec)}
        contents = [None if _has_files(one) else _content(one) for one in _sources(merge)]
        return cls(merge, output, threads, shards, weights, contents)

    @property
    def recipe(self) -> Mapping[str, Any]:
        stated = self.output.recipe
        return _recipe(self.merge.method, self.weights) if stated is None else stated

    def story(
        self, files: Mapping[str, str], owner: Checkpoint | None, notes: Sequence[str]
    ) -> Story:
        merge = self.merge
        sources = zip(_sources(merge), self.contents, strict=True)
        parents = [_parent(*one, self.threads) for one in sources]
        return Story(
            self.recipe,
            parents[: len(merge.parts)],
            None if merge.base is None else parents[-1],
            self.output.dtype,
            files,
            {} if owner is None else owner.beside.left_out,
            notes,
        )

    @property
    def key(self) -> str:
        """Names everything that decides the bytes of the output."""
        merge, weights, contents = self.merge, self.weights, self.contents
        plan = {
            "format": [_FORMAT, __version__, str(torch.__version__)],
            "method": [merge.method.name, _settings(merge.method)],
            "weights": {name: list(map(float, one)) for name, one in weights.items()},
            "recipe": repr(self.recipe),
            "dtype": str(self.output.dtype),
            "shards": [[s.name, hashlib.sha256(s.layout.header).hexdigest()] for s in self.shards],
            "parts": [_identity(*one) for one in zip(merge.parts, contents, strict=False)],
            "base": None if merge.base is None else _identity(merge.base, contents[-1]),
        }
        if merge.round_to is not None:
            plan["round_to"] = str(merge.round_to)
        if merge.options is not None:
            plan["options"] = {name: _floats(merge.options(name)) for name in weights}
        return hash_json(plan)[:16]


def _sources(merge: Merge) -> list[TensorSource]:
    return [*merge.parts, *([] if merge.base is None else [merge.base])]


def _absent(parts: Sequence[TensorSource], weights: Callable[[str], Sequence[float]]) -> list[bool]:
    """Which parts have a weight of 0 for every tensor."""
    table = [weights(name) for name, spec in parts[0].specs.items() if measured(spec)]
    return [
        bool(table) and not any(row[k] for row in table if k < len(row)) for k in range(len(parts))
    ]


def _has_files(source: TensorSource) -> bool:
    return isinstance(source, Absent) or checkpoint_of(source) is not None


def _threads(merge: Merge, limits: MergeLimits) -> int:
    """As many threads as memory allows, at most those asked for."""
    threads, memory = limits.threads, limits.memory
    wanted = torch.get_num_threads() if threads is None else threads
    if wanted < 1:
        raise SettingError(f"threads must be at least 1, not {wanted}")
    specs = merge.parts[0].specs.values()
    block = max((pieces(s, rows=merge.method.rows)[0][1] for s in specs if s.size), default=0)
    sources = len(merge.parts) + (merge.base is not None)
    each = (3 * sources + 8) * 4 * block  # float32 parts and what methods make of them
    largest = max((spec.bytes for spec in specs), default=0)
    bound = largest * (len(merge.parts) + 2) + _BESIDE if memory is None else memory
    most = (bound - _FIXED) // max(each, 1)
    if most < 1 and memory is not None:
        least = math.ceil((_FIXED + each) / 1e6)
        raise SettingError(
            f"memory: this merge needs at least {least} MB beside the bare process, "
            f"not {memory / 1e6:.0f} MB"
        )
    return max(1, min(wanted, most))


def _recipe(method: Method, named: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """What was merged how, where the caller has no recipe."""
    rows = [list(map(float, one)) for one in named.values()]
    same = all(one == rows[0] for one in rows)
    return {
        "method": {"name": method.name, **_settings(method)},
        "weights": rows[0] if same and rows else dict(zip(named, rows, strict=True)),
    }


def _settings(method: Method) -> dict[str, Any]:
    if not hasattr(type(method), "model_fields"):
        return {"settings": repr(method)}
    return {key: value for key, value in method_options(method).items() if key != "name"}


def _floats(options: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    return {name: list(map(float, values)) for name, values in options.items()}


def _identity(source: TensorSource, content: str | None) -> list[Any]:
    """What identifies the content of a source; files by what changes when they are written to."""
    checkpoint = checkpoint_of(source)
    if isinstance(source, Absent) or checkpoint is None:
        return [source.label, content]
    files = [
        [str(file.path.resolve()), file.header.size, file.modified, file.header.raw.hex()]
        for file in checkpoint.files
    ]
    return [source.label, hash_json(files), *signature_of(source)]


def _content(source: TensorSource) -> str:
    """BLAKE3 of all that a source without files gives."""
    digest = blake3()
    for name, spec in source.specs.items():
        digest.update(f"{name}|{spec.dtype}|{spec.shape}|".encode())
        for start, count in pieces(spec, rows=False):
            values = source.read(name, start, count).contiguous()
            digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _parent(source: TensorSource, content: str | None, threads: int) -> Parent:
    if isinstance(source, Absent):
        return Parent(source.label, {})
    checkpoint = checkpoint_of(source)
    if checkpoint is not None:
        return Parent(source.label, checkpoint.hashes(threads))
    return Parent(source.label, {"content": str(content)})


def _check_room(out: Path, shards: Sequence[Shard], sink: FolderSink) -> None:
    todo = [s.layout for s in shards if any(sink.wants(name) for name in s.layout.tensors)]
    need, free = sum(one.size for one in todo) + (1 << 20), shutil.disk_usage(out.parent).free
    if need > free:
        raise WriteError(
            f"{out} needs {need / 1e9:.3g} GB of disk, and {free / 1e9:.3g} GB are free there"
        )


class _Meter:
    """Adds up what threads have read, and reports it now and then."""

    def __init__(self, total: int, report: ReportProgress | None) -> None:
        self.total, self.call = total, report
        self.done, self.reported = 0, 0.0
        self.began = time.monotonic()
        self.lock = threading.Lock()

    def add(self, count: int) -> None:
        with self.lock:
            self.done += count
            if self.call is not None and time.monotonic() - self.reported > _REPORT_EVERY:
                self.report()

    def report(self) -> None:
        self.reported = time.monotonic()
        if self.call is not None:
            self.call(MergeProgress(self.done, self.total, self.reported - self.began))
