"""Files beside the weights of several models: which of them the merged one gets, and notes about them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from weft.adapters import Adapter
from weft.adapters.peft_writing import write_adapter
from weft.artifacts.atomic import new_directory, read_json, reason
from weft.artifacts.travelling import carry_files
from weft.backbones.companions import (
    MODULES,
    Companions,
    companions_of,
    copy_beside,
    module_weights,
)
from weft.backbones.files import CONFIG
from weft.data.catalogue import FILE as CATALOGUE
from weft.data.catalogue import load_catalogue, save_catalogue
from weft.errors import DataError, MismatchError, WeftError, notice
from weft.merging.checkpoints.checkpoint import Checkpoint
from weft.merging.checkpoints.source_files import checkpoint_of
from weft.merging.checkpoints.views import Absent
from weft.merging.engine.source import TensorSource
from weft.merging.vocabulary.align import Aligned

COUNTS = "popularity.parquet"  # beside a catalogue: how often each of its items was taken
_ALIGNED = ("tokenizer.json", "added_tokens.json", "special_tokens_map.json")
"""Files that an aligned vocabulary has dealt with."""
_NOTES = ("_name_or_path", "name_or_path", "transformers_version", "dtype", "torch_dtype")
"""Entries of configurations that change nothing of what a model does."""


def owner_of_files(parts: Sequence[TensorSource], base: TensorSource | None) -> Checkpoint | None:
    """The checkpoint whose configuration and tokenizer the merged one gets: that of an aligned
    vocabulary, else the first part that has any, else the base."""
    present = [part for part in parts if not isinstance(part, Absent)]
    if present and isinstance(present[0], Aligned):
        return present[0].output.owner
    for source in (present[0], base, *present[1:]):
        checkpoint = checkpoint_of(source)
        if checkpoint is not None and checkpoint.companions:
            return checkpoint
    return None


def check_modules(parts: Sequence[TensorSource]) -> None:
    """A `WeftError` for sentence-transformers modules whose own weights differ between the parts."""
    checkpoints = _checkpoints(parts)
    for one in checkpoints:
        for module in one.beside.modules:
            for other in checkpoints:
                if _module(one, module) != _module(other, module):
                    file = next(iter(_module(one, module)), "")
                    raise MismatchError(
                        f"{one.path / MODULES} names {module}, which has weights of its own "
                        f"({module}/{file}); those of {one.label} and {other.label} differ, and "
                        "weft can't merge them"
                    )


def notes_of_files(owner: Checkpoint | None, parts: Sequence[TensorSource]) -> list[str]:
    """Whose files were taken where those of the parts differ, in sentences."""
    if owner is None:
        return []
    others = [(one.label, one.beside) for one in _checkpoints(parts) if one is not owner]
    aligned = any(isinstance(part, Aligned) for part in parts)
    return _differences((owner.label, owner.beside), others, aligned)


def folder_with_catalogue(*folders: Path | None) -> Path | None:
    """The first of some folders that has a catalogue of items (`items.parquet`)."""
    return next((one for one in folders if one and (one / CATALOGUE).is_file()), None)


def save_merged_adapter(
    adapter: Adapter,
    out: Path,
    labels: Sequence[str],
    folders: Sequence[Path | None],
    *,
    catalogue: Path | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write an adapter's folder, whole or not at all, with the tokenizer and other files of the
    first part's folder; notices name what is left out, and what differs between the parts. It gets
    the items of the folder `catalogue`, and the file of how often each was taken."""
    beside = [
        (label, companions_of(folder))
        for label, folder in zip(labels, folders, strict=True)
        if folder is not None
    ]
    notes = _differences(beside[0], beside[1:], aligned=False) if beside else []
    with new_directory(out) as folder:
        write_adapter(adapter, folder, dtype=dtype)
        if beside:
            copy_beside(beside[0][1], folder)
        carry_files([one for one in folders if one is not None], folder)
        if catalogue is not None:
            save_catalogue(load_catalogue(catalogue), folder)
            if (catalogue / COUNTS).is_file():
                shutil.copyfile(catalogue / COUNTS, folder / COUNTS)
    for note in notes:
        notice(note)


def _differences(
    owner: tuple[str, Companions], others: Sequence[tuple[str, Companions]], aligned: bool
) -> list[str]:
    """Sentences on files that differ, or that the owner lacks; `aligned` vocabularies may differ."""
    try:
        return list(_difference_notes(owner, others, aligned))
    except OSError as error:
        raise DataError(f"{error.filename} can't be read: {reason(error)}") from None


def _difference_notes(
    owner: tuple[str, Companions], others: Sequence[tuple[str, Companions]], aligned: bool
) -> Iterator[str]:
    label, companions = owner
    differ: dict[str, list[str]] = {}
    lacking: dict[str, str] = {}
    for other_label, other in others:
        for name in other.copied:
            if aligned and (name in _ALIGNED or name.startswith("vocab")):
                continue
            if name not in companions.copied:
                lacking.setdefault(name, other_label)
            elif what := _contrast(companions.folder / name, other.folder / name):
                if aligned and what == ["vocab_size"]:
                    continue
                known = differ.setdefault(name, [])
                known += [one for one in what if one not in known]
    if differ:
        listed = ", ".join(f"{n} ({', '.join(w)})" if any(w) else n for n, w in differ.items())
        verb = "differs" if len(differ) == 1 else "differ"
        yield f"{listed} {verb} between the parts: taken from {label}"
    if lacking:
        listed = ", ".join(f"{name} (of {whose})" for name, whose in lacking.items())
        yield f"not copied, as {label} has no such file: {listed}"


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} can't be read: {reason(error)}") from None


def _contrast(one: Path, other: Path) -> list[str]:
    """What differs: for a configuration the entries, else one empty text; nothing where equal."""
    first, second = (_bytes(path) for path in (one, other))
    if first == second:
        return []
    if one.suffix != ".json":
        return [""]
    values = [_content(path) for path in (one, other)]
    if values[0] == values[1]:
        return []
    if one.name != CONFIG or not all(isinstance(value, dict) for value in values):
        return [""]
    a, b = values
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


def _content(path: Path) -> Any:
    try:
        values = read_json(path)
    except WeftError:  # it is copied as it is, and no business of a merge
        return path.read_bytes()
    if not isinstance(values, Mapping):
        return values
    return {key: value for key, value in values.items() if key not in _NOTES}


def _module(checkpoint: Checkpoint, module: str) -> dict[str, bytes]:
    """File of weights -> its bytes."""
    return {path.name: path.read_bytes() for path in module_weights(checkpoint.path, module)}


def _checkpoints(parts: Sequence[TensorSource]) -> list[Checkpoint]:
    present = [part for part in parts if not isinstance(part, Absent)]
    checkpoints = [checkpoint_of(part) for part in present]
    return [one for one in checkpoints if one is not None and one.path.is_dir()]
