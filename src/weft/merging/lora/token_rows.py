"""Rows of embeddings that adapters train alone (`trainable_token_indices`), token by token.

Such rows are weights, not differences. They are merged as tensors saved whole are, over the union
of all parts' tokens: a part that has not trained a token has the backbone's row for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from weft.adapters import Adapter, TokenRows
from weft.backbones.load import fingerprint_of
from weft.backbones.names import StatedBackbone
from weft.errors import MismatchError, NotFoundError, WeftError
from weft.merging.checkpoints.checkpoint import open_checkpoint
from weft.merging.checkpoints.quantised import check_numbers
from weft.merging.engine.source import Memory, TensorSource
from weft.merging.paths import locate

HEAD = "lm_head"
INPUTS = ("embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embed_in")
"""What models call their output layer and their input embedding."""


@dataclass(frozen=True, eq=False)
class TokenUnion:
    """Every token that some part has trained, by embedding, and the rows that parts lack.

    `base` has the backbone's tensors; unless it is given, those of the backbone that the adapters
    name are looked for on this machine when they are needed.
    """

    adapters: Mapping[str, Adapter]
    base: TensorSource | None = None

    @cached_property
    def indices(self) -> dict[str, tuple[int, ...]]:
        """Embedding -> tokens, in ascending order."""
        tokens_of: dict[str, set[int]] = {}
        for one in self.adapters.values():
            for module, tokens in one.tokens.items():
                tokens_of.setdefault(module, set()).update(tokens.indices)
        return {module: tuple(sorted(tokens)) for module, tokens in tokens_of.items()}

    @cached_property
    def lacking(self) -> str | None:
        """The first row that a part lacks, in words."""
        for label, one in self.adapters.items():
            for module, tokens in self.indices.items():
                trained = set(one.tokens[module].indices) if module in one.tokens else set()
                for token in tokens:
                    if token not in trained:
                        return f"token {token} of '{module}' was not trained in {label}"
        return None

    def parts(self) -> list[Memory]:
        """Every part's rows [n, dim] by the name of the embedding's weight, of the same tokens."""
        _check_widths(self.adapters)
        sources = []
        for label, one in self.adapters.items():
            rows = {weight_of(module): self._filled(one, module) for module in self.indices}
            sources.append(Memory(label, rows))
        return sources

    def _filled(self, adapter: Adapter, module: str) -> Tensor:
        indices, trained = self.indices[module], adapter.tokens.get(module)
        if trained is None:
            return self.under[weight_of(module)]
        place = {token: row for row, token in enumerate(indices)}
        whole = len(trained.indices) == len(indices)
        filled = (
            trained.rows if whole else self.under[weight_of(module)].to(trained.rows.dtype)
        ).clone()
        filled[[place[token] for token in trained.indices]] = trained.rows
        return filled

    @cached_property
    def under(self) -> dict[str, Tensor]:
        """The backbone's rows [n, dim] by the name of the embedding's weight."""
        base = self.base or _backbone(next(iter(self.adapters.values())))
        if base is None:
            module = next(iter(self.indices))
            reason = self.lacking or f"rows of '{module}' are merged by their differences"
            raise NotFoundError(
                f"{reason}, and the backbone, whose rows are needed for it, is not on this "
                "machine: name its folder as the base (--base)"
            )
        named = {weight_of(module): tokens for module, tokens in self.indices.items()}
        return {name: _rows(base, name, tokens) for name, tokens in named.items()}

    def merged(self, rows: Mapping[str, Tensor]) -> dict[str, TokenRows]:
        """Embedding -> merged rows, each of its token."""
        return {
            module: TokenRows(tokens, rows[weight_of(module)])
            for module, tokens in self.indices.items()
        }


def weight_of(module: str) -> str:
    """By this name the rows of an embedding are merged."""
    return f"{module}.weight"


def _backbone(adapter: Adapter) -> TensorSource | None:
    """The backbone that the adapter names, if it is on this machine and the very one."""
    backbone = adapter.manifest["backbone"]
    try:
        folder = locate(str(backbone["name"]))
        if not folder.is_dir():
            return None
        stated = StatedBackbone.of(backbone).fingerprint
        if stated is not None and stated != fingerprint_of(folder):
            return None
        return open_checkpoint(folder, str(backbone["name"]))
    except WeftError:
        return None


def _check_widths(adapters: Mapping[str, Adapter]) -> None:
    known: dict[str, tuple[str, int]] = {}
    for label, one in adapters.items():
        for module, tokens in one.tokens.items():
            width = tokens.rows.shape[1]
            first, other = known.setdefault(module, (label, width))
            if width != other:
                raise MismatchError(
                    f"rows of '{module}' have {other} elements in {first} and {width} in {label}"
                )


def _rows(base: TensorSource, wanted: str, tokens: Sequence[int]) -> Tensor:
    """The rows of some tokens, read one at a time.

    The tensor's name may lack a prefix of the adapter's model, or have one; an output layer that
    the backbone does not store is the input embedding.
    """
    ends = [n for n in base.specs if f".{wanted}".endswith(f".{n}") or n.endswith(f".{wanted}")]
    if not ends and _last(wanted) == HEAD:
        ends = [name for name in base.specs if _last(name) in INPUTS]
    name = wanted if wanted in base.specs else ends[0] if len(ends) == 1 else None
    if name is None:
        raise MismatchError(
            f"{base.label} has no tensor '{wanted}', whose rows the adapters trained"
        )
    check_numbers(base, name)
    shape = base.specs[name].shape
    if len(shape) != 2 or max(tokens) >= shape[0]:
        raise MismatchError(
            f"'{name}' of {base.label} is {list(shape)}, so it has no row for token {max(tokens)}"
        )
    return torch.stack([base.read(name, token * shape[1], shape[1]) for token in tokens])


def _last(name: str) -> str:
    """The last word of a tensor's module."""
    return name.rpartition(".")[0].rpartition(".")[2]
