"""A backbone with an adapter in it, tensor by tensor: what `weft fold` writes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from weft.adapters import Adapter, TokenRows
from weft.errors import DataError, MismatchError
from weft.merging.checkpoints.checkpoint import Checkpoint
from weft.merging.engine.source import Spec
from weft.merging.lora.sources import DeltaSource
from weft.merging.lora.token_rows import HEAD, INPUTS

_CONV1D = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp")


@dataclass(frozen=True)
class Piece:
    """One tensor of the folded checkpoint: a tensor of the backbone with a module's ΔW added or
    some rows replaced, or a tensor that the adapter saves whole."""

    spec: Spec
    base: str | None = None  # tensor of the backbone
    delta: str | None = None  # module of the adapter
    turned: bool = False  # stored [in, out]: ΔW is added transposed
    rows: str | None = None  # embedding of the adapter
    saved: str | None = None  # tensor of the adapter

    @property
    def change(self) -> tuple[Any, ...]:
        """In what two tensors differ that are tied in the backbone."""
        return self.delta, self.rows, self.saved


@dataclass(frozen=True, eq=False)
class Folded:
    """A source of the folded tensors, by their names in the output; floats are float32."""

    label: str
    backbone: Checkpoint
    adapter: Adapter
    pieces: Mapping[str, Piece]
    untied: bool  # the output layer is no longer the input embedding

    @property
    def specs(self) -> Mapping[str, Spec]:
        return {name: piece.spec for name, piece in self.pieces.items()}

    @property
    def added(self) -> list[str]:
        """Tensors that the backbone lacks."""
        return [name for name, piece in self.pieces.items() if piece.base is None]

    @cached_property
    def _deltas(self) -> DeltaSource:
        return DeltaSource(self.label, self.adapter)

    def read(self, name: str, start: int, count: int) -> Tensor:
        """Elements [start, start + count) of the flattened tensor. NaN and infinity are errors."""
        piece = self.pieces[name]
        if piece.saved is not None:
            values = self.adapter.saved[piece.saved].reshape(-1)[start : start + count].float()
        else:
            assert piece.base is not None
            raw = self.backbone.read(piece.base, start, count)
            if not raw.dtype.is_floating_point:
                return raw
            values = raw.to(torch.float32, copy=True)
        if piece.delta is not None:
            values += self._delta(piece, start, count)
        if piece.rows is not None:
            _put_rows(values, self.adapter.tokens[piece.rows], start, piece.spec.columns)
        if not math.isfinite(values.sum().item()) and not torch.isfinite(values).all():
            raise DataError(f"tensor '{name}' of {self.label} holds NaN or infinity")
        return values

    def _delta(self, piece: Piece, start: int, count: int) -> Tensor:
        assert piece.delta is not None
        if not piece.turned:
            return self._deltas.read(piece.delta, start, count)
        factors = self.adapter.factors[piece.delta]
        columns = piece.spec.columns
        first, last = start // columns, -(-(start + count) // columns)
        rows = factors.a.T[first:last] @ (factors.b * factors.scaling).T
        return rows.reshape(-1)[start - first * columns :][:count]


def _put_rows(values: Tensor, tokens: TokenRows, start: int, columns: int) -> None:
    """Overwrite what lies of some rows [columns] in the elements from `start` on, in place."""
    for token, row in zip(tokens.indices, tokens.rows.float(), strict=True):
        first = token * columns - start
        low, high = max(first, 0), min(first + columns, len(values))
        if low < high:
            values[low:high] = row[low - first : high - first]


def fold_pieces(backbone: Checkpoint, adapter: Adapter, label: str) -> Folded:
    """Find every change's place among the backbone's tensors.

    Raises `WeftError` for a module, bias or row that has no place or another shape there.
    """
    names = _names(backbone, adapter, label)
    pieces = {name: Piece(spec, base=name) for name, spec in backbone.specs.items()}
    embedding, head = _ends(backbone, names)
    tied = embedding is not None and _is_tied(backbone, adapter, head)
    if tied:  # one that is stored all the same is not used
        assert embedding is not None
        pieces[head] = pieces[embedding]
    for module in adapter.factors:
        name = names.tensor(f"{module}.weight")
        pieces[name] = _added(pieces.get(name), adapter, module, backbone, label)
    for saved in adapter.saved:
        name = names.tensor(saved)
        pieces[name] = _replaced(pieces.get(name), adapter, saved, backbone, label)
    for module in adapter.tokens:
        name = names.tensor(f"{module}.weight")
        pieces[name] = _with_rows(pieces.get(name), adapter, module, label)
    if not tied:
        return Folded(label, backbone, adapter, names.out(pieces), untied=False)
    assert embedding is not None
    if adapter.tokens and pieces[head].change == (None, None, None):
        pieces[head] = replace(pieces[head], rows=pieces[embedding].rows)  # as PEFT ties them
    same = _same(pieces[embedding], pieces[head], adapter)
    if same and head not in backbone.specs:
        del pieces[head]
    _check_embeddings(backbone, pieces, embedding, label)
    return Folded(label, backbone, adapter, names.out(pieces), untied=not same)


def _added(
    piece: Piece | None, adapter: Adapter, module: str, backbone: Checkpoint, label: str
) -> Piece:
    shape = adapter.shapes[module].delta
    if piece is None:
        raise MismatchError(
            f"{label} has the module '{module}', but {backbone.label} has no weight of that name"
        )
    their = piece.spec.shape
    turned = their == shape[::-1] and (their != shape or _stored_turned(backbone, adapter))
    if their != shape and not turned:
        raise MismatchError(
            f"module '{module}' has the shape {list(shape)} in {label}, "
            f"but its weight has {list(their)} in {backbone.label}"
        )
    return replace(piece, delta=module, turned=turned)


def _stored_turned(backbone: Checkpoint, adapter: Adapter) -> bool:
    """Whether a square weight is stored [in, out], as the class `Conv1D` of GPT-2 does."""
    kind = (backbone.config or {}).get("model_type")
    return adapter.header.fan_in_fan_out or kind in _CONV1D


def _replaced(
    piece: Piece | None, adapter: Adapter, name: str, backbone: Checkpoint, label: str
) -> Piece:
    shape = tuple(adapter.saved[name].shape)
    if piece is None:
        if name in adapter.biases:
            raise MismatchError(f"{label} has the bias '{name}', which {backbone.label} lacks")
        return Piece(Spec(shape, _dtype(backbone)), saved=name)
    rows_alone = len(shape) == len(piece.spec.shape) and shape[1:] == piece.spec.shape[1:]
    if shape != piece.spec.shape and (name in adapter.biases or not rows_alone):
        raise MismatchError(
            f"'{name}' has the shape {list(shape)} in {label}, "
            f"but {list(piece.spec.shape)} in {backbone.label}"
        )
    return replace(piece, spec=Spec(shape, piece.spec.dtype), saved=name)


def _with_rows(piece: Piece | None, adapter: Adapter, module: str, label: str) -> Piece:
    tokens = adapter.tokens[module]
    shape = None if piece is None else piece.spec.shape
    if piece is None or len(piece.spec.shape) != 2:
        raise MismatchError(f"{label} trained rows of '{module}', which the backbone lacks")
    if tokens.rows.shape[1] != piece.spec.columns or max(tokens.indices) >= piece.spec.shape[0]:
        raise MismatchError(
            f"{label} trained rows of '{module}' up to token {max(tokens.indices)}, of "
            f"{tokens.rows.shape[1]} elements, but the backbone's has the shape {list(shape or ())}"
        )
    return replace(piece, rows=module)


def _same(one: Piece, other: Piece, adapter: Adapter) -> bool:
    """Whether input embedding and output layer, tied before, are still one tensor."""
    if one.change == other.change:
        return True
    if (
        one.saved is None
        or other.saved is None
        or one.rows
        or other.rows
        or one.delta
        or other.delta
    ):
        return False
    return torch.equal(adapter.saved[one.saved], adapter.saved[other.saved])


def _check_embeddings(
    backbone: Checkpoint, pieces: Mapping[str, Piece], embedding: str, label: str
) -> None:
    """Encoder-decoders use one embedding in more places than two."""
    if (backbone.config or {}).get("is_encoder_decoder") and any(pieces[embedding].change):
        raise MismatchError(
            f"{label} changes '{embedding}', which an encoder and a decoder share; folding that is "
            "not supported"
        )


def _dtype(backbone: Checkpoint) -> torch.dtype:
    """Of the backbone's first weights: what new tensors get."""
    kinds = (spec.dtype for spec in backbone.specs.values())
    return next((one for one in kinds if one.is_floating_point), torch.float32)


def _ends(backbone: Checkpoint, names: Names) -> tuple[str | None, str]:
    """The input embedding, if its name shows it, and the output layer's name."""
    inputs = [n for n in backbone.specs if n.rpartition(".")[0].rpartition(".")[2] in INPUTS]
    shared = [n for n in backbone.specs if n == "shared.weight"]
    heads = [n for n in backbone.specs if n.endswith(f"{HEAD}.weight")]
    head = heads[0] if heads else names.tensor(f"{HEAD}.weight")
    return next(iter(shared or inputs), None), head


def _is_tied(backbone: Checkpoint, adapter: Adapter, head: str) -> bool:
    """Whether there is an output layer, and it is the input embedding."""
    if adapter.header.task_type in ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"):
        return False
    config = backbone.config or {}
    classes = str((config.get("architectures") or [""])[0])
    generates = any(word in classes for word in ("CausalLM", "LMHead", "ConditionalGeneration"))
    changed = [*adapter.factors, *adapter.tokens, *(n.rpartition(".")[0] for n in adapter.saved)]
    if not generates and not any(one.rpartition(".")[2] == HEAD for one in changed):
        return False
    stated = _stated_tying(config)
    return head not in backbone.specs if stated is None else stated


def _stated_tying(config: Mapping[str, Any]) -> bool | None:
    """As config.json says, or the class of its kind by default; None where neither is known."""
    text = config.get("text_config")
    for one in (config, text if isinstance(text, dict) else {}):
        if isinstance(one.get("tie_word_embeddings"), bool):
            return bool(one["tie_word_embeddings"])
    from transformers import CONFIG_MAPPING

    kind = str(config.get("model_type"))
    if kind not in CONFIG_MAPPING:
        return None
    default = getattr(CONFIG_MAPPING[kind](), "tie_word_embeddings", None)
    return default if isinstance(default, bool) else None


@dataclass(frozen=True)
class Names:
    """How the adapter's names become the backbone's: a prefix off, or a prefix on."""

    off: str = ""
    on: str = ""
    heads: tuple[str, ...] = ()  # the adapter's tensors that lie outside the prefix
    outward: bool = False  # the output has the adapter's names

    def tensor(self, name: str) -> str:
        if name in self.heads or (self.off and not name.startswith(self.off)):
            return name
        return self.on + name.removeprefix(self.off)

    def out(self, pieces: Mapping[str, Piece]) -> dict[str, Piece]:
        """With a head beside it, a bare backbone gets the prefix that its class gives it."""
        if not self.outward:
            return dict(pieces)
        return {n if n in self.heads else self.off + n: piece for n, piece in pieces.items()}


def _names(backbone: Checkpoint, adapter: Adapter, label: str) -> Names:
    modules = [m for m in adapter.factors if m.rpartition(".")[2] != HEAD] or list(adapter.factors)
    ways = dict.fromkeys(_ways(modules[0], backbone))
    reached = {
        way: [m for m in modules if way.tensor(f"{m}.weight") in backbone.specs] for way in ways
    }
    best = max(reached, key=lambda way: len(reached[way]))
    if len(reached[best]) < len(modules):
        lacking = [module for module in modules if module not in reached[best]]
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise MismatchError(
            f"{label} has the module '{lacking[0]}'{more}, "
            f"but {backbone.label} has no weight of that name"
        )
    whole = [way for way, names in reached.items() if len(names) == len(modules)]
    if len(whole) > 1 and whole[0] != Names():
        one, other = (way.tensor(f"{modules[0]}.weight") for way in whole[:2])
        raise MismatchError(
            f"the modules of {label} fit two places in {backbone.label}: '{one}' and '{other}'"
        )
    weights = [f"{module}.weight" for module in (*adapter.factors, *adapter.tokens)]
    every = [*adapter.saved, *weights]
    heads = tuple(n for n in every if best.off and not n.startswith(best.off))
    return replace(best, heads=heads, outward=bool(heads))


def _ways(module: str, backbone: Checkpoint) -> Iterator[Names]:
    """The names as they are, then with every prefix on or off that finds the module."""
    yield Names()
    ending = f".{module}.weight"
    for name in backbone.specs:
        if name.endswith(ending):
            yield Names(on=name.removesuffix(ending) + ".")
    words: Sequence[str] = module.split(".")
    for at in range(1, len(words)):
        off = ".".join(words[:at]) + "."
        if f"{module.removeprefix(off)}.weight" in backbone.specs:
            yield Names(off=off)
