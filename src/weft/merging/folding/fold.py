"""An adapter and its backbone as one full checkpoint, for whatever knows no adapters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from blake3 import blake3

from weft import __version__
from weft.adapters import load_adapter
from weft.adapters.adapter import MANIFEST
from weft.adapters.peft_format import WEIGHTS
from weft.artifacts.atomic import check_folder
from weft.artifacts.hashing import hash_json
from weft.artifacts.staging import staged
from weft.backbones import find_backbone
from weft.backbones.load import fingerprint_of, named_backbone
from weft.backbones.names import StatedBackbone, in_words
from weft.errors import DataError, MismatchError, NotFoundError, SettingError, WeftError
from weft.merging.checkpoints.checkpoint import Checkpoint, inner_advice, open_checkpoint
from weft.merging.checkpoints.model_card import (
    Parent,
    Story,
    copy_companions,
    write_index,
    write_story,
)
from weft.merging.checkpoints.quantised import check_plain
from weft.merging.checkpoints.shards import FolderSink, Shard, plan_shards
from weft.merging.engine.schedule import threads_alone
from weft.merging.engine.stream import pieces
from weft.merging.folding.config import (
    adjust_config,
    changed_vocabulary,
    check_added,
    take_tokenizer,
)
from weft.merging.folding.folded import Folded, fold_pieces
from weft.merging.paths import ADAPTER_CONFIG, bytes_of, locate
from weft.merging.recipe import SHARD_SIZE

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_FORMAT = 2  # raised when the same parts give other bytes


def fold(
    adapter: Path | str,
    out: Path | str,
    *,
    base: Path | str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
) -> Path:
    """W + s·BA for every module of the adapter, streamed to the new folder `out`, with the
    backbone's tokenizer and configuration: it loads in transformers with nothing else.

    `adapter` is a folder, or the hub name of one in the Hugging Face cache. Modules saved whole,
    trained biases and rows of single tokens take the place of the backbone's; where they change
    the vocabulary, the tying of input and output, or the head, config.json says so; a tokenizer in
    the adapter's folder is taken instead of the backbone's. `base` is the backbone's folder,
    by default the one that the adapter names; `dtype` float32, bfloat16 or float16, by default each
    tensor's in the backbone. An adapter of another backbone, or one that changes nothing, is
    a `WeftError`.

    >>> import json, tempfile
    >>> from safetensors.torch import load_file, save_file
    >>> from weft.adapters import Adapter, Factors, save_adapter
    >>> with tempfile.TemporaryDirectory() as name:
    ...     folder = Path(name)
    ...     (folder / "base").mkdir()
    ...     save_file({"layer.weight": torch.eye(2)}, folder / "base" / "model.safetensors")
    ...     identity = {"name": str(folder / "base"), "fingerprint": fingerprint_of(folder / "base")}
    ...     factors = Factors(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0], [0.0]]), 0.5)
    ...     save_adapter(Adapter({"layer": factors}, {"backbone": identity}), folder / "adapter")
    ...     out = fold(folder / "adapter", folder / "folded")
    ...     load_file(out / "model.safetensors")
    {'layer.weight': tensor([[2., 0.],
            [0., 1.]])}
    """
    out, base = Path(out), None if base is None else Path(base)
    check_folder(out, new=True)
    if dtype is not None and dtype not in DTYPES:
        raise SettingError(f"dtype is one of {', '.join(DTYPES)}, not {dtype}")
    path = _adapter_folder(adapter)
    loaded = load_adapter(path, lazy=True, backbone=None if base is None else str(base))
    if loaded.changes_nothing():
        raise DataError(f"{path} changes nothing: its factors are zero, as before training")
    named = loaded.manifest["backbone"]
    manifest = path / (MANIFEST if (path / MANIFEST).is_file() else ADAPTER_CONFIG)
    folder = base or _backbone_of(named["name"], manifest)
    fingerprint = fingerprint_of(folder) if folder.is_dir() else ""
    stated = StatedBackbone.of(named)
    if stated.fingerprint not in (None, fingerprint):
        theirs, ours = in_words(stated, StatedBackbone(str(folder), fingerprint or None))
        raise MismatchError(f"the adapter {path} belongs to backbone {theirs}, not to {ours}")
    with open_checkpoint(folder) as backbone:
        _check_plain(backbone)
        label = path.resolve().name
        folded = fold_pieces(backbone, loaded, label if label != backbone.label else f"{label} 2")
        changed_vocabulary(folded)  # refused before the work, not after it
        check_added(folded)
        _write(folded, path, out, None if dtype is None else DTYPES[dtype], fingerprint, threads)
    return out


def _check_plain(backbone: Checkpoint) -> None:
    """What adapters were trained on in 4 or 8 bits is folded into the model before that."""
    try:
        check_plain(backbone, torch.float32)
    except WeftError as error:
        raise DataError(
            f"{error}: to fold, name the backbone as it was before it was quantised (--base)"
        ) from None


def _backbone_of(name: str, manifest: Path) -> Path:
    try:
        return find_backbone(named_backbone(name, manifest))
    except WeftError as error:
        raise type(error)(f"{error}; or name its folder (--base)") from None


def _adapter_folder(adapter: Path | str) -> Path:
    path = locate(adapter)
    if not path.is_dir():
        raise NotFoundError(
            f"{adapter} is neither an adapter's folder nor in the Hugging Face cache "
            f"(hf download {adapter} brings one from the hub)"
        )
    if not (path / ADAPTER_CONFIG).is_file():
        raise NotFoundError(
            f"{path} is not an adapter's folder: it has no {ADAPTER_CONFIG}{inner_advice(path)}"
        )
    return path


def _write(
    folded: Folded,
    path: Path,
    out: Path,
    dtype: torch.dtype | None,
    fingerprint: str,
    threads: int | None,
) -> None:
    """Stream every tensor; a killed process is gone on with, file by file."""
    backbone = folded.backbone
    shards = plan_shards(folded.specs, bytes_of(SHARD_SIZE), dtype)
    plan = [[shard.name, shard.layout.header.hex()] for shard in shards]
    adapter = folded.adapter
    key = [_FORMAT, __version__, fingerprint, adapter.weights_hash, str(dtype), plan]
    with staged(out, hash_json(key)[:16]) as folder:
        files = _stream(folded, folder, shards, out, threads)
        parents = [
            Parent(backbone.label, backbone.hashes()),
            Parent(folded.label, {WEIGHTS: blake3().update_mmap(path / WEIGHTS).hexdigest()}),
        ]
        recipe = {"method": "linear", "expression": f"{backbone.label} + {folded.label}"}
        recipe |= {} if dtype is None else {"dtype": str(dtype).removeprefix("torch.")}
        write_index(folder, shards)
        copy_companions(backbone, folder, dtype)
        config = adjust_config(folder, folded)
        take_tokenizer(path, folder)
        write_story(folder, out.name, Story(recipe, parents, None, dtype, files), config)


def _stream(
    folded: Folded, folder: Path, shards: Sequence[Shard], out: Path, threads: int | None
) -> dict[str, str]:
    """Every tensor in blocks, several at a time; output file -> BLAKE3."""
    with FolderSink(folder, shards, out) as sink, threads_alone(threads) as pool:

        def copy(name: str) -> None:
            for start, count in pieces(folded.specs[name], rows=False):
                sink.write(name, start, folded.read(name, start, count))

        names = [name for name in folded.specs if sink.wants(name)]
        for name, _ in zip(names, pool.map(copy, names), strict=True):
            sink.finish(name)
        return sink.close()
