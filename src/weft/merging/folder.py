"""Merging checkpoints into a folder: bounded memory, whole or absent, going on after a kill."""

from __future__ import annotations

import hashlib
import math
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from blake3 import blake3

from weft import __version__
from weft.artifacts.atomic import check_folder
from weft.artifacts.hashing import hash_json
from weft.artifacts.staging import staged
from weft.errors import WeftError, notice
from weft.merging.alike import bring_together
from weft.merging.beside import check_modules, notes_of_files, owner_of_files
from weft.merging.card import (
    Parent,
    Story,
    carry_recommender,
    copy_companions,
    write_index,
    write_story,
)
from weft.merging.engine.method import Method
from weft.merging.engine.source import Source
from weft.merging.engine.stream import Merge, bytes_to_read, measured, pieces, stream
from weft.merging.fitting import check_fitting
from weft.merging.methods import method_options
from weft.merging.origin import checkpoint_of, signature_of
from weft.merging.output import FolderSink, Shard, plan_shards
from weft.merging.placed import Absent
from weft.merging.vocabulary.align import Aligned
from weft.merging.vocabulary.rules import TokenizerRules

_FORMAT = 1  # raised when the same plan gives other bytes
_BESIDE = 256 << 20  # bytes of memory beside the tensors, unless the caller says
_FIXED = 48 << 20  # bytes whatever the number of threads
_TELL_EVERY = 0.1  # seconds


@dataclass(frozen=True)
class Progress:
    """How far a merge is, in bytes read; `total_bytes` counts every pass over the parts."""

    done_bytes: int
    total_bytes: int
    seconds: float

    @property
    def bytes_per_second(self) -> float:
        return self.done_bytes / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """None as long as nothing has been read."""
        speed = self.bytes_per_second
        return (self.total_bytes - self.done_bytes) / speed if speed else None


def merge_checkpoints(
    parts: Sequence[Source],
    out: Path,
    method: Method,
    weights: Callable[[str], Sequence[float]],
    *,
    base: Source | None = None,
    options: Callable[[str], Mapping[str, Sequence[float]]] | None = None,
    round_to: torch.dtype | Literal["stored"] | None = None,
    dtype: torch.dtype | None = None,
    shard_bytes: int = 5_000_000_000,
    threads: int | None = None,
    memory: int | None = None,
    recipe: Mapping[str, Any] | None = None,
    tokenizer: TokenizerRules | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> None:
    """Merge K parts into the folder `out`, tensor by tensor, never holding a model in memory.

    `weights` gives a tensor's K weights by its name, `options` what single parts have for the
    method's options; `round_to` is that of `Merge`. Tensors get `dtype`, or keep that of the
    first part, whose configuration and tokenizer files are copied too (where it has none, those
    of the base or of the next part that has some); integer tensors must be the same everywhere.
    Of the files beside the weights, those that are not copied are named in a notice. `tokenizer`
    says whose vocabulary comes out; without it, rows of embeddings must mean the same tokens in
    all (`weft.merging.alike`). A part whose every weight is 0 is not read.
    Files hold at most `shard_bytes` of data unless one tensor is larger. `recipe` goes into
    `weft.json` and the card as it is.

    Memory beyond the bare process stays below `memory` bytes, by default (K + 2) times the
    largest tensor + 256 MB; `threads` is how many compute, fewer where memory asks for it. The
    result has the same bits whatever these are. `out` appears at the end by one rename. The same
    call after a kill goes on with the first file that is not finished.

    Raises `WeftError`, in one sentence, for parts that don't fit, hold NaN or infinity or can't
    be read, a value too large for `dtype`, an `out` that exists, and too little disk or memory.
    """
    out = Path(out)
    check_folder(out, new=True)
    absent = _absent(parts, weights)
    ready = bring_together(parts, base, method, absent=absent, tokenizer=tokenizer, dtype=dtype)
    parts, base = ready.parts, ready.base
    merge = Merge(parts, method, weights, base, options, round_to)
    check_fitting(merge, dtype)
    check_modules(parts)
    if dtype is not None and not dtype.is_floating_point:
        kind = str(dtype).removeprefix("torch.")
        raise WeftError(f"dtype must be one of floating point numbers, not {kind}")
    shards = plan_shards(parts[0].specs, shard_bytes, dtype)
    threads = _threads(merge, threads, memory)
    named = {name: weights(name) for name, spec in parts[0].specs.items() if measured(spec)}
    recipe = _recipe(method, named) if recipe is None else recipe
    sources = [*parts, *([] if base is None else [base])]
    contents = [None if _has_files(one) else _content(one) for one in sources]
    owner = owner_of_files(parts, base)
    notes = notes_of_files(owner, parts)
    for note in notes:
        notice(note)
    with staged(out, _key(merge, named, shards, dtype, recipe, contents)) as folder:
        with FolderSink(folder, shards, out) as sink:
            _check_room(out, shards, sink)
            meter = _Meter(bytes_to_read(merge, sink.wants), progress)
            stream(merge, sink, threads=threads, progress=meter.add)
            parents = [_parent(*one, threads) for one in zip(sources, contents, strict=True)]
            story = Story(
                recipe,
                parents[: len(parts)],
                None if base is None else parents[-1],
                dtype,
                sink.close(),
                {} if owner is None else owner.beside.left_out,
                notes,
            )
            meter.tell()
        write_index(folder, shards)
        if owner is not None:
            first = parts[0]
            copy_companions(
                owner, folder, dtype, first.output if isinstance(first, Aligned) else None
            )
        write_story(folder, out.name, story, None if owner is None else owner.config)
        carry_recommender([one for one in parts if not isinstance(one, Absent)], folder)


def _absent(parts: Sequence[Source], weights: Callable[[str], Sequence[float]]) -> list[bool]:
    """Which parts have a weight of 0 for every tensor."""
    table = [weights(name) for name, spec in parts[0].specs.items() if measured(spec)]
    return [
        bool(table) and not any(row[k] for row in table if k < len(row)) for k in range(len(parts))
    ]


def _has_files(source: Source) -> bool:
    return isinstance(source, Absent) or checkpoint_of(source) is not None


def _threads(merge: Merge, threads: int | None, memory: int | None) -> int:
    """As many threads as memory allows, at most those asked for."""
    wanted = torch.get_num_threads() if threads is None else threads
    if wanted < 1:
        raise WeftError(f"threads must be at least 1, not {wanted}")
    specs = merge.parts[0].specs.values()
    block = max((pieces(s, rows=merge.method.rows)[0][1] for s in specs if s.size), default=0)
    sources = len(merge.parts) + (merge.base is not None)
    each = (3 * sources + 8) * 4 * block  # float32 parts and what methods make of them
    largest = max((spec.bytes for spec in specs), default=0)
    bound = largest * (len(merge.parts) + 2) + _BESIDE if memory is None else memory
    most = (bound - _FIXED) // max(each, 1)
    if most < 1 and memory is not None:
        least = math.ceil((_FIXED + each) / 1e6)
        raise WeftError(
            f"memory: this merge needs at least {least} MB beside the bare process, "
            f"not {memory / 1e6:.0f} MB"
        )
    return max(1, min(wanted, most))


def _recipe(method: Method, named: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """What was merged how, where the caller has no recipe."""
    given = [list(map(float, one)) for one in named.values()]
    same = all(one == given[0] for one in given)
    return {
        "method": {"name": method.name, **_settings(method)},
        "weights": given[0] if same and given else dict(zip(named, given, strict=True)),
    }


def _settings(method: Method) -> dict[str, Any]:
    if not hasattr(type(method), "model_fields"):
        return {"settings": repr(method)}
    return {key: value for key, value in method_options(method).items() if key != "name"}


def _key(
    merge: Merge,
    named: Mapping[str, Sequence[float]],
    shards: Sequence[Shard],
    dtype: torch.dtype | None,
    recipe: Mapping[str, Any],
    contents: Sequence[str | None],
) -> str:
    """Names everything that decides the bytes of the output."""
    plan = {
        "format": [_FORMAT, __version__, str(torch.__version__)],
        "method": [merge.method.name, _settings(merge.method)],
        "weights": {name: list(map(float, one)) for name, one in named.items()},
        "recipe": repr(recipe),
        "dtype": str(dtype),
        "shards": [[s.name, hashlib.sha256(s.layout.header).hexdigest()] for s in shards],
        "parts": [_identity(*one) for one in zip(merge.parts, contents, strict=False)],
        "base": None if merge.base is None else _identity(merge.base, contents[-1]),
    }
    if merge.round_to is not None:
        plan["round_to"] = str(merge.round_to)
    if merge.options is not None:
        plan["options"] = {name: _floats(merge.options(name)) for name in named}
    return hash_json(plan)[:16]


def _floats(options: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    return {name: list(map(float, values)) for name, values in options.items()}


def _identity(source: Source, content: str | None) -> list[Any]:
    """What tells the content of a source; files by what changes when they are written to."""
    checkpoint = checkpoint_of(source)
    if isinstance(source, Absent) or checkpoint is None:
        return [source.label, content]
    files = [
        [str(file.path.resolve()), file.header.size, file.modified, file.header.raw.hex()]
        for file in checkpoint.files
    ]
    return [source.label, hash_json(files), *signature_of(source)]


def _content(source: Source) -> str:
    """BLAKE3 of all that a source without files gives."""
    digest = blake3()
    for name, spec in source.specs.items():
        digest.update(f"{name}|{spec.dtype}|{spec.shape}|".encode())
        for start, count in pieces(spec, rows=False):
            values = source.read(name, start, count).contiguous()
            digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _parent(source: Source, content: str | None, threads: int) -> Parent:
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
        raise WeftError(
            f"{out} needs {need / 1e9:.3g} GB of disk, and {free / 1e9:.3g} GB are free there"
        )


class _Meter:
    """Adds up what threads have read, and says so now and then."""

    def __init__(self, total: int, tell: Callable[[Progress], None] | None) -> None:
        self.total, self.call = total, tell
        self.done, self.told = 0, 0.0
        self.began = time.monotonic()
        self.lock = threading.Lock()

    def add(self, count: int) -> None:
        with self.lock:
            self.done += count
            if self.call is not None and time.monotonic() - self.told > _TELL_EVERY:
                self.tell()

    def tell(self) -> None:
        self.told = time.monotonic()
        if self.call is not None:
            self.call(Progress(self.done, self.total, self.told - self.began))
