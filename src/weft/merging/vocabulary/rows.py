"""Where each row of an aligned embedding comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weft.errors import NotFoundError
from weft.merging.vocabulary.rules import TokenOf, TokenRule, Zero
from weft.merging.vocabulary.tokens import Ids

Rows = NDArray[np.int64]
ZERO, MEAN, PADDING = -1, -2, -3


@dataclass(frozen=True, eq=False)
class RowPlan:
    """For every row of one model's aligned tensor: the model and its row; or no model.

    `owner` is the number of a model, ZERO, MEAN (of `means`: (model, row) several), or PADDING,
    the mean of all other rows of this plan.
    """

    owner: Rows
    row: Rows
    means: Mapping[int, Sequence[tuple[int, int]]]

    def runs(self, start: int, stop: int) -> list[tuple[int, int, int, int]]:
        """(first, count, owner, row) of rows that lie beside one another in one model."""
        if stop <= start:
            return []
        owner, row = self.owner[start:stop], self.row[start:stop]
        alike = (owner[1:] == owner[:-1]) & (owner[1:] != MEAN)
        # Of rows that are no model's, the numbers mean nothing.
        alike &= (row[1:] == row[:-1] + 1) | (owner[1:] < 0)
        edges = np.flatnonzero(~alike) + 1
        starts = np.concatenate([[0], edges])
        stops = np.concatenate([edges, [stop - start]])
        return [
            (int(a), int(b - a), int(owner[a]), int(row[a]))
            for a, b in zip(starts, stops, strict=True)
        ]


def plan_rows(
    tokens: Ids,
    count: int,
    models: Sequence[tuple[str, Ids, int]],
    rules: Mapping[str, TokenRule],
    base: int | None,
) -> list[RowPlan]:
    """A plan for each model: label, its vocabulary, how many rows it has.

    `tokens` is the vocabulary of the output, which has `count` rows. A token that a model has
    keeps that model's row. For one that it lacks, and with `force` for all models: the rule's row,
    else the row of the only model that has it, else the base's (number `base`), else the mean of
    those that have it; no one's token is zero. Rows of no token are padding. So does mergekit.
    """
    owners = [np.full(count, PADDING, np.int64) for _ in models]
    rows = [np.zeros(count, np.int64) for _ in models]
    means: dict[int, Sequence[tuple[int, int]]] = {}
    for token, place in tokens.items():
        having = [
            (k, ids[token])
            for k, (_, ids, size) in enumerate(models)
            if ids.get(token, size) < size
        ]
        rule = rules.get(token, TokenRule())
        keeping = {} if rule.force else dict(having)
        other = (ZERO, 0)
        if len(keeping) < len(models):
            default = _default(token, rule, having, models, base)
            other = default if isinstance(default, tuple) else (MEAN, place)
            if not isinstance(default, tuple):
                means[place] = default
        for k in range(len(models)):
            owners[k][place], rows[k][place] = (k, keeping[k]) if k in keeping else other
    return [RowPlan(*both, means) for both in zip(owners, rows, strict=True)]


def _default(
    token: str,
    rule: TokenRule,
    having: Sequence[tuple[int, int]],
    models: Sequence[tuple[str, Ids, int]],
    base: int | None,
) -> tuple[int, int] | list[tuple[int, int]]:
    """(model, row), or several whose mean it is."""
    if isinstance(rule.source, Zero):
        return ZERO, 0
    if rule.source is not None:
        return _stated(token, rule.source, models)
    if len(having) == 1:
        return having[0]
    for k, row in having:
        if k == base:
            return k, row
    return list(having) if having else (ZERO, 0)


def _stated(
    token: str, source: str | TokenOf, models: Sequence[tuple[str, Ids, int]]
) -> tuple[int, int]:
    wanted = source if isinstance(source, str) else source.model
    k = [label for label, _, _ in models].index(wanted)
    label, ids, size = models[k]
    if isinstance(source, TokenOf) and source.token_id is not None:
        row: int | None = source.token_id
        what = f"row {row}"
    else:
        named = token if isinstance(source, str) or source.token is None else source.token
        row, what = ids.get(named), f"token {named!r}"
    if row is None or row >= size:
        raise NotFoundError(f"tokenizer.tokens: {label} has no {what}, which {token!r} is to get")
    return k, row
