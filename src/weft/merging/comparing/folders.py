"""What a folder of weights is, and how several lie to each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from weft.adapters import load_adapter
from weft.adapters.adapter import MANIFEST
from weft.artifacts.atomic import read_json
from weft.errors import NotFoundError, SettingError, WeftError, notice
from weft.merging.algebra import weights
from weft.merging.checkpoints.checkpoint import Checkpoint, open_checkpoint
from weft.merging.checkpoints.reconcile import bring_together
from weft.merging.checkpoints.views import Renamed
from weft.merging.comparing.comparison import Contrast, contrast_adapters, contrast_checkpoints
from weft.merging.engine.source import TensorSource
from weft.merging.lora.shared_backbone import share_backbone
from weft.merging.parts import kind_of
from weft.merging.paths import is_adapter
from weft.merging.vocabulary.match import match_vocabularies
from weft.merging.vocabulary.rules import ROWS, TokenizerRules

_CONFIG_KEYS = (
    "model_type",
    "architectures",
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "max_position_embeddings",
    "tie_word_embeddings",
)
"""What is shown of a configuration."""
_UNNAMED = "(not named)"


def describe_weights(path: Path | str) -> dict[str, Any]:
    """What an adapter's folder or a checkpoint is, from its manifest and headers alone.

    Of an adapter: its manifest, number of modules, ranks and parameters. Of a checkpoint: tensors,
    parameters by dtype, bytes of each file, a summary of config.json, and what weft.json says of
    the merge that made it. Raises `WeftError` for anything else.
    """
    path = Path(path)
    if is_adapter(path):
        return _adapter(path)
    if not path.exists():
        raise NotFoundError(f"{path} is not an adapter folder or a checkpoint: it does not exist")
    with open_checkpoint(path) as checkpoint:
        return _checkpoint(checkpoint)


def _adapter(path: Path) -> dict[str, Any]:
    loaded = load_adapter(path, backbone=_UNNAMED)
    shapes = loaded.shapes.values()
    description = {
        **loaded.manifest,
        "modules": len(shapes),
        "ranks": sorted({one.rank for one in shapes}),
        "parameters": sum(one.rank * (one.out + one.inside) for one in shapes),
    }
    description |= {"saved": sorted(loaded.saved)} if loaded.saved else {}
    rows = {module: list(one.indices) for module, one in loaded.tokens.items()}
    return description | ({"token_rows": rows} if rows else {})


def _checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    dtypes: dict[str, int] = {}
    for spec in checkpoint.specs.values():
        name = str(spec.dtype).removeprefix("torch.")
        dtypes[name] = dtypes.get(name, 0) + spec.size
    description: dict[str, Any] = {
        "tensors": len(checkpoint.specs),
        "parameters": sum(spec.size for spec in checkpoint.specs.values()),
        "dtypes": dtypes,
        "bytes": sum(spec.bytes for spec in checkpoint.specs.values()),
        "files": {file.path.name: file.header.size for file in checkpoint.files},
    }
    if checkpoint.config is not None:
        description["config"] = {
            key: checkpoint.config[key] for key in _CONFIG_KEYS if key in checkpoint.config
        }
    manifest = checkpoint.path / MANIFEST
    if manifest.is_file():
        record = read_json(manifest)
        if isinstance(record, dict):
            description |= {k: value for k, value in record.items() if k not in description}
    return description


def contrast(
    paths: Sequence[Path | str],
    base: Path | str | None = None,
    *,
    backbone: str | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Contrast:
    """Compare adapters, or checkpoints trained from one `base`; see `weft.merging.comparing.comparison`.

    `backbone` names the model of all adapters, where they have different names for it. With a base,
    adapters can stand beside checkpoints: they count as base + ΔW in float32.
    `progress` is called with the number of elements that are done, and of all.
    """
    folders = [Path(path) for path in paths]
    labels = _labels(folders)
    kinds = [kind_of(path) == "adapters" for path in folders]
    if all(kinds):
        if base is not None:
            raise SettingError("a base is for checkpoints: an adapter's ΔW needs none")
        adapters = [load_adapter(path, lazy=True, backbone=backbone) for path in folders]
        shared = share_backbone(adapters, labels, backbone)
        return contrast_adapters(shared, labels, threads=threads)
    if backbone is not None:
        raise SettingError("backbone is for adapters")
    if base is None:
        if any(kinds):
            raise SettingError(
                f"{folders[kinds.index(True)]} is an adapter and {folders[kinds.index(False)]} a "
                "checkpoint: to compare them, name the base of both"
            )
        raise SettingError("to compare checkpoints, name the base that they were trained from")
    origin = weights(Path(base))
    parts: list[TensorSource] = [
        Renamed(label, origin + weights(path) if adapter else weights(path))
        for path, label, adapter in zip(folders, labels, kinds, strict=True)
    ]
    compared, whole = _row_by_row(parts, origin)
    every = sum(spec.size for spec in whole.specs.values() if spec.dtype.is_floating_point)
    done = 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, every)

    return contrast_checkpoints(compared, whole, threads=threads, progress=report)


def _row_by_row(
    parts: Sequence[TensorSource], base: TensorSource
) -> tuple[list[TensorSource], TensorSource]:
    """As a merge would read them; a notice names tokenizers that differ, and rows are compared as
    they are."""
    ready = bring_together(parts, base, tokenizer=TokenizerRules(source=ROWS))
    assert ready.base is not None
    try:
        match_vocabularies(ready.parts, ready.base, None)
    except WeftError as error:
        notice(str(error).partition("; align")[0])  # which a comparison can't
    return list(ready.parts), ready.base


def _labels(paths: Sequence[Path]) -> list[str]:
    """The parts' domains, `gifts+lab`; where there are none, or two parts have the same, the end
    of the path too, as few folders of it as make them differ."""
    absolute = [Path(path).absolute() for path in paths]
    if len(set(absolute)) < len(absolute):
        twice = next(p for p, a in zip(paths, absolute, strict=True) if absolute.count(a) > 1)
        raise SettingError(f"{twice} is named twice")
    domains = [_domains(path) for path in absolute]
    labels: list[str] = []
    for path, domain in zip(absolute, domains, strict=True):
        alike = [p for p, other in zip(absolute, domains, strict=True) if other == domain]
        if domain and len(alike) == 1:
            labels.append(domain)
        else:
            end = _end(path, alike)
            labels.append(f"{domain} ({end})" if domain else end)
    return labels if len(set(labels)) == len(labels) else [str(path) for path in absolute]


def _end(path: Path, others: Sequence[Path]) -> str:
    """The last parts of a path, as few as none of the others has."""
    for depth in range(1, len(path.parts)):
        end = path.parts[-depth:]
        if sum(other.parts[-depth:] == end for other in others) == 1:
            return "/".join(end)
    return str(path)


def _domains(path: Path) -> str:
    """What the manifest says that a part was trained on, or merged from."""
    manifest = path / MANIFEST
    record = read_json(manifest) if manifest.is_file() else None
    names = record.get("domains") if isinstance(record, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return ""
    return "+".join(names)
