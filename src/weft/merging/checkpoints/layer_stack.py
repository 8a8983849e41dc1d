"""Layers of several checkpoints put one upon another, as one checkpoint that is read in place.

What comes before the layers (the embedding) is the first slice's model's, what comes after them
(the last norm, the head) the last one's. Layers are numbered anew.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from weft.errors import DataError, MismatchError, SettingError
from weft.merging.checkpoints.checkpoint import Checkpoint, open_checkpoint
from weft.merging.vocabulary.tensors import vocabulary_tensors
from weft.merging.vocabulary.tokens import first_difference, read_vocabulary
from weft.merging.weights import layer_of, places

_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_ALIKE = (
    *("model_type", "hidden_size", "n_embd", "d_model", "num_attention_heads", "n_head"),
    *("num_key_value_heads", "head_dim", "intermediate_size", "vocab_size", "tie_word_embeddings"),
)


@dataclass(frozen=True)
class Slice:
    """Layers [start, end) of a checkpoint."""

    path: Path
    start: int
    end: int


@dataclass(frozen=True)
class Stack:
    """Slices from the first layer to the last."""

    slices: tuple[Slice, ...]

    @property
    def label(self) -> str:
        return "+".join(f"{one.path.name}[{one.start}:{one.end}]" for one in self.slices)


@dataclass(frozen=True, eq=False)
class Stacked(Checkpoint):
    """A `Checkpoint` whose tensors lie in the files of several; made by `open_stack`."""

    models: tuple[Checkpoint, ...] = ()  # which own the files and close them

    def __post_init__(self) -> None:
        object.__setattr__(self, "_finalizer", self._close)

    def _close(self) -> None:
        for model in self.models:
            model.close()

    def hashes(self, threads: int = 1) -> dict[str, str]:
        """Folder and file name -> BLAKE3."""
        digests: dict[str, str] = {}
        every = list(dict.fromkeys(self.models))
        names = [model.path.name for model in every]
        for model, name in zip(every, names, strict=True):
            place = name if names.count(name) == 1 else str(model.path)
            digests |= {f"{place}/{file}": digest for file, digest in model.hashes(threads).items()}
        return digests


def open_stack(stack: Stack, label: str | None = None) -> Stacked:
    """Open the slices' checkpoints as one.

    Raises `WeftError` for layers that a checkpoint lacks, models of another kind or size, and
    models with two stacks of layers.
    """
    if not stack.slices:
        raise SettingError("a stack needs at least one slice")
    opened = {one.path: open_checkpoint(one.path) for one in stack.slices}
    models = [opened[one.path] for one in stack.slices]
    try:
        return _stacked(stack, models, label)
    except BaseException:
        for model in opened.values():
            model.close()
        raise


def _stacked(stack: Stack, models: Sequence[Checkpoint], label: str | None) -> Stacked:
    first = models[0]
    for other in models[1:]:
        _check_alike(first, other)
    _check_tokenizers(first, models[-1])
    sources = dict(_sources(stack.slices, models))
    files = tuple({id(file): file for model in models for file in model.files}.values())
    values: dict[str, Any] = {field.name: getattr(first, field.name) for field in fields(first)}
    values |= {
        "label": label or stack.label,
        "files": files,
        "specs": {new: model.specs[old] for new, (model, old) in sources.items()},
        "config": _config(stack.slices, models),
        "_places": {new: model._places[old] for new, (model, old) in sources.items()},
    }
    return Stacked(**values, models=tuple(models))


def _check_alike(first: Checkpoint, other: Checkpoint) -> None:
    one, two = _text(first.config), _text(other.config)
    for key in _ALIKE:
        if one.get(key) != two.get(key):
            raise MismatchError(
                f"layers of {other.label} can't be stacked on those of {first.label}: {key} is "
                f"{one.get(key)} and {two.get(key)}"
            )


def _check_tokenizers(first: Checkpoint, last: Checkpoint) -> None:
    """The embedding is the first model's, the head the last one's: both must mean the same rows."""
    one, two = (
        None if model.home is None else read_vocabulary(model.home) for model in (first, last)
    )
    if one is None or two is None:
        return
    token = first_difference(one.ids, two.ids, (_rows(first), _rows(last)))
    if token is not None:
        raise MismatchError(
            f"{last.label} has another tokenizer than {first.label}, so the head of one does not "
            f"fit the embedding of the other (token {token!r})"
        )


def _rows(model: Checkpoint) -> int:
    """How many tokens there are in embedding and head; any number, where neither is known by name."""
    axes = vocabulary_tensors(model.specs)
    sizes = (model.specs[name].shape[axis] for name, axis in axes.items())
    return max(sizes, default=sys.maxsize)


def _text(config: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The part of a configuration that is about the layers."""
    config = config or {}
    inner = config.get("text_config")
    if isinstance(inner, Mapping) and not any(key in config for key in _COUNTS):
        return inner
    return config


def _sources(
    slices: Sequence[Slice], models: Sequence[Checkpoint]
) -> Iterator[tuple[str, tuple[Checkpoint, str]]]:
    """New name -> checkpoint and its name for the tensor, in the model's order."""
    prefix = _prefix(models[0])
    yield from ((name, (models[0], name)) for name in _outside(models[0], "before"))
    number = 0
    for one, model in zip(slices, models, strict=True):
        if _prefix(model) != prefix:
            raise MismatchError(
                f"layers are called {prefix}… in {models[0].label} and {_prefix(model)}… in "
                f"{model.label}: they can't be stacked"
            )
        layers = _layers(model)
        if not 0 <= one.start < one.end <= len(layers):
            raise SettingError(
                f"{model.label} has the layers 0 to {len(layers) - 1}, so there is no slice "
                f"{one.start} to {one.end}"
            )
        for layer in range(one.start, one.end):
            for name in layers[layer]:
                rest = name.removeprefix(f"{prefix}{layer}")
                yield f"{prefix}{number}{rest}", (model, name)
            number += 1
    yield from ((name, (models[-1], name)) for name in _outside(models[-1], "after"))


def _outside(model: Checkpoint, side: str) -> list[str]:
    return [name for name, place in places(model.specs).items() if place.side == side]


def _prefix(model: Checkpoint) -> str:
    """What stands before a layer's number: "model.layers."."""
    prefixes = {layer.rpartition(".")[0] + "." for n in model.specs if (layer := layer_of(n))}
    if not prefixes:
        raise MismatchError(f"no tensor of {model.label} has a layer's number in its name")
    if len(prefixes) > 1:
        one, other = sorted(prefixes)[:2]
        raise MismatchError(
            f"{model.label} has two stacks of layers ({one}… and {other}…), and slices are of one"
        )
    return prefixes.pop()


def _layers(model: Checkpoint) -> dict[int, list[str]]:
    """Layer -> names of its tensors, of a checkpoint with one stack."""
    layers: dict[int, list[str]] = {}
    for name, place in places(model.specs).items():
        if place.side == "inside":
            layers.setdefault(place.index, []).append(name)
    if sorted(layers) != list(range(len(layers))):
        raise DataError(f"{model.label} lacks some of its layers")
    return layers


def _config(slices: Sequence[Slice], models: Sequence[Checkpoint]) -> dict[str, Any] | None:
    """The first model's, with the number of layers, and its lists of one entry a layer, put together anew."""
    if models[0].config is None:
        return None
    config = dict(models[0].config)
    text = dict(_text(config))
    total = sum(one.end - one.start for one in slices)
    counted = [key for key in _COUNTS if key in text]
    if not counted:
        raise DataError(
            f"config.json of {models[0].label} does not say how many layers it has "
            f"({', '.join(_COUNTS)}), so layers can't be stacked"
        )
    every = text[counted[0]]
    for key, value in text.items():
        if isinstance(value, list) and len(value) == every and "layer" in key:
            text[key] = [
                item
                for one, model in zip(slices, models, strict=True)
                for item in _list(model, key)[one.start : one.end]
            ]
    text |= dict.fromkeys(counted, total)
    inner = config.get("text_config")
    if isinstance(inner, Mapping) and not any(key in config for key in _COUNTS):
        return config | {"text_config": text}
    return text


def _list(model: Checkpoint, key: str) -> list[Any]:
    value = _text(model.config).get(key)
    if not isinstance(value, list):
        raise DataError(f"config.json of {model.label} has no list {key}, one for each layer")
    return value
