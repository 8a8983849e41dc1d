"""Which coefficient each tensor gets, and how learned ones are written in a merge recipe."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from weft.merging.weights import layer_of

Grouping = Literal["domain", "layer"]
OTHERS = "others"


@dataclass(frozen=True)
class Groups:
    """G groups of tensors; each has K coefficients, one a part.

    `patterns` [G] are regular expressions that find a group's tensors by name; of those that find
    one, the first counts, and None finds every tensor.
    """

    labels: tuple[str, ...]
    patterns: tuple[str | None, ...]
    of: Mapping[str, int]  # tensor (or adapter's module) -> its group

    def __len__(self) -> int:
        return len(self.labels)

    def specs(self, coefficients: Sequence[Sequence[float]]) -> list[Any]:
        """`coefficients` [K][G] as weights of a merge recipe: a number a part, or a list of rules."""
        if len(self) == 1:
            return [row[0] for row in coefficients]
        return [
            [
                {"value": value} if pattern is None else {"pattern": pattern, "value": value}
                for pattern, value in zip(self.patterns, row, strict=True)
            ]
            for row in coefficients
        ]


def make_groups(grouping: Grouping, names: Iterable[str]) -> Groups:
    """`domain`: one group of all tensors. `layer`: one for each transformer block, and one for all
    else, embeddings above all (MergeRec's domain- and layer-wise weights).

    >>> groups = make_groups("layer", ["embeddings.weight", "layer.0.a.weight", "layer.1.a.weight"])
    >>> groups.labels, groups.of["embeddings.weight"]
    (('layer.0', 'layer.1', 'others'), 2)
    >>> [rule["value"] for rule in groups.specs([[0.1, 0.2, 0.3]])[0]]  # of the one part
    [0.1, 0.2, 0.3]
    """
    names = list(names)
    if grouping == "domain":
        return Groups(("all",), (None,), dict.fromkeys(names, 0))
    blocks = {name: layer_of(name) for name in names}
    ordered = sorted({block for block in blocks.values() if block is not None}, key=_in_order)
    labels = [*ordered, *([OTHERS] if None in blocks.values() else [])]
    patterns = [rf"(?:^|\.){re.escape(block)}\." for block in ordered]
    place = {label: g for g, label in enumerate(labels)}
    return Groups(
        tuple(labels),
        (*patterns, None)[: len(labels)],
        {name: place[OTHERS if block is None else block] for name, block in blocks.items()},
    )


def module_groups(modules: Iterable[str]) -> Groups:
    """A group for each module of an adapter (AdaMerging)."""
    names = list(modules)
    patterns = [rf"^{re.escape(name)}$" for name in names]
    return Groups(tuple(names), tuple(patterns), {name: g for g, name in enumerate(names)})


def _in_order(block: str) -> tuple[str, int]:
    stack, _, number = block.rpartition(".")
    return stack, int(number)
