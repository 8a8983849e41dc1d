"""Sequences as a prefix tree, so that what they begin with in common is computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from weft.data.domain import IntArray
from weft.errors import DataError, SettingError


@dataclass(frozen=True, eq=False)
class PrefixTree:
    """The distinct beginnings of C sequences, as t nodes in depth-first order.

    `token` [t] is what a node adds to its `parent` [t] (−1: the prompt), `depth` [t] is 0 for a
    first token. `path` [C, longest] are each sequence's nodes, −1 behind its end, and `leaf` [C]
    is its last. Equal sequences have equal paths.

    >>> tree = PrefixTree.of([np.array([7, 1]), np.array([7, 2, 3]), np.array([4])])
    >>> tree.token, tree.parent
    (array([4, 7, 1, 2, 3]), array([-1, -1,  1,  1,  3]))
    >>> tree.path
    array([[ 1,  2, -1],
           [ 1,  3,  4],
           [ 0, -1, -1]])
    >>> tree.leaf
    array([2, 4, 0])
    """

    token: NDArray[np.int64]
    parent: NDArray[np.int64]
    depth: NDArray[np.int64]
    path: NDArray[np.int64]
    leaf: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.token)

    @classmethod
    def of(cls, sequences: Sequence[IntArray]) -> PrefixTree:
        """The tree of at least one sequence; an empty one is a `WeftError` that names its row."""
        table, lengths = _table(sequences)
        order = _sorted(table)
        place, new = _nodes(table[order], lengths[order])
        token = table[order][new]
        before = np.concatenate([np.full((len(place), 1), -1), place[:, :-1]], axis=1)
        path = np.empty_like(place)
        path[order] = place
        depth = np.broadcast_to(np.arange(table.shape[1]), table.shape)[new]
        leaf = path[np.arange(len(path)), lengths - 1]
        return cls(token, before[new], depth, path, leaf)

    @cached_property
    def sees(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pairs (node, what it attends to): each node with itself and with its ancestors."""
        node = at = np.arange(len(self))
        pairs = []
        while len(node):
            pairs.append((node, at))
            at = self.parent[at]
            node, at = node[at >= 0], at[at >= 0]
        nodes, seen = zip(*pairs, strict=True)
        return np.concatenate(nodes), np.concatenate(seen)

    def spans(self, size: int) -> Iterator[tuple[int, int, NDArray[np.int64], NDArray[np.bool_]]]:
        """(start, end, above, sees) of runs of at most `size` nodes.

        Nodes [start, end) attend to some of `above` [m] and of themselves, in this order: `sees`
        [end − start, m + end − start]. What stands above is an ancestor of the first of them, as
        nodes are in depth-first order: no more than its depth.

        >>> tree = PrefixTree.of([np.array([7, 1]), np.array([7, 2, 3]), np.array([4])])
        >>> for start, end, above, sees in tree.spans(2):
        ...     print(start, end, above, sees.astype(int).tolist())
        0 2 [] [[1, 0], [0, 1]]
        2 4 [1] [[1, 1, 0], [1, 0, 1]]
        4 5 [1 3] [[1, 1, 1]]
        """
        nodes, seen = self.sees
        for start in range(0, len(self), size):
            end = min(len(self), start + size)
            here = (nodes >= start) & (nodes < end)
            above = np.unique(seen[here & (seen < start)])
            columns = np.concatenate([above, np.arange(start, end)])
            table = np.zeros((end - start, len(columns)), dtype=bool)
            table[nodes[here] - start, np.searchsorted(columns, seen[here])] = True
            yield start, end, above, table

    @cached_property
    def children(self) -> dict[int, NDArray[np.int64]]:
        """Node (−1: the prompt) -> its children."""
        order = np.argsort(self.parent, kind="stable")
        parents, first = np.unique(self.parent[order], return_index=True)
        return dict(zip(parents.tolist(), np.split(order, first[1:]), strict=True))

    def sums(self, of_node: NDArray[np.float32]) -> NDArray[np.float64]:
        """[C] float64: the sum of a value [t] over each sequence's nodes.

        >>> tree = PrefixTree.of([np.array([7, 1]), np.array([7, 2, 3]), np.array([4])])
        >>> tree.sums(np.array([0.5, 1, 2, 3, 4], dtype=np.float32))
        array([3. , 8. , 0.5])
        """
        known = np.append(of_node.astype(np.float64), 0.0)  # −1 reads the last
        total: NDArray[np.float64] = known[self.path].sum(axis=1)
        return total


def blocks(sequences: Sequence[IntArray], most: int) -> Iterator[NDArray[np.int64]]:
    """Rows of the sequences, in groups whose trees have at most `most` nodes each.

    Sequences with a common beginning stay together. One that is longer than `most` alone is a
    `WeftError`.
    """
    table, lengths = _table(sequences)
    if lengths.max() > most:
        raise SettingError(
            f"a title of {lengths.max()} tokens does not fit the memory bound, which leaves room "
            f"for {most}: raise recommender.memory"
        )
    order = _sorted(table)
    _, new = _nodes(table[order], lengths[order])
    adds, whole = new.sum(axis=1), lengths[order]
    start = used = 0
    for row in range(len(order)):
        if row > start and used + adds[row] > most:
            yield order[start:row]
            start, used = row, int(whole[row])  # a block's first sequence shares with none
        else:
            used += int(whole[row] if row == start else adds[row])
    yield order[start:]


def _table(sequences: Sequence[IntArray]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """([C, longest] int64 padded with −1, lengths [C])."""
    lengths = np.array([len(one) for one in sequences], dtype=np.int64)
    if not len(lengths):
        raise DataError("there are no candidates to score")
    if not lengths.all():
        raise DataError(f"candidate {int(np.argmin(lengths)) + 1} has no tokens to score")
    within = np.arange(lengths.max()) < lengths[:, None]
    table = np.full(within.shape, -1, dtype=np.int64)
    table[within] = np.concatenate(sequences)
    return table, lengths


def _sorted(table: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.lexsort(table.T[::-1])


def _nodes(
    table: NDArray[np.int64], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Of a sorted table: (each entry's node, −1 behind the end; whether it is the first of it)."""
    differs = np.ones(table.shape, dtype=bool)
    differs[1:] = np.logical_or.accumulate(table[1:] != table[:-1], axis=1)
    within = np.arange(table.shape[1]) < lengths[:, None]
    new = differs & within
    number = np.where(new, np.cumsum(new).reshape(new.shape) - 1, -1)
    place = np.where(within, np.maximum.accumulate(number, axis=0), -1)
    return place, new
