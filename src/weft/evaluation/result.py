"""A result: where each user's targets stand, and the protocol that put them there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from weft.artifacts.versions import library_versions
from weft.errors import MismatchError, NotFoundError
from weft.evaluation.metrics import parse_metric
from weft.evaluation.protocol import Protocol
from weft.evaluation.ranks import TargetPlaces
from weft.evaluation.result_folder import read_result, write_result


@cache
def _versions() -> Mapping[str, str]:
    """Looked up once: a run makes hundreds of results."""
    return MappingProxyType(library_versions())


@dataclass(frozen=True, eq=False)
class Result:
    """`frame`, a row per target, sorted by `user_id` and `position`.

    Columns: `user_id`, `item_id` (the target), `position` (of the target in the sequence); then
    of the candidates and of the whole catalogue (`_candidates`, `_full`) how many items stand
    strictly `above` the target and how many others `level` with it; null where that ranking
    wasn't asked for. Older results have the mean rank (`rank_…`) in their place. `versions` are
    those of weft and the libraries that measured.

    >>> from tempfile import TemporaryDirectory
    >>> from weft.data.mall import mall
    >>> from weft.data.splits import leave_one_out
    >>> from weft.evaluation.evaluate import evaluate
    >>> from weft.evaluation.protocol import EvaluationSettings
    >>> class Ones:
    ...     def score(self, histories, candidates=None):
    ...         return np.ones((len(histories), 40))
    >>> test = leave_one_out(mall(users=60, items=40)["toys"]).test
    >>> result = evaluate(Ones(), test, EvaluationSettings(candidates=None, at=(4,)))
    >>> round(result.metrics()["full/recall@4"], 9)  # all items tie: 4 of 40
    0.1
    >>> with TemporaryDirectory() as place:
    ...     result.save(f"{place}/test")
    ...     again = Result.load(f"{place}/test")
    >>> again.ranks(whole=True)[:3]
    array([20.5, 20.5, 20.5])
    """

    frame: pl.DataFrame
    protocol: Protocol
    versions: Mapping[str, str] = field(default_factory=_versions)

    def places(self, whole: bool) -> TargetPlaces:
        """Above and level of each target, in the whole catalogue or among its candidates."""
        if self.protocol.ties != "expected metric":
            raise MismatchError("this result is older: it holds mean ranks, and no ties")
        above, level = (self._column(f"{name}_{_kind(whole)}") for name in ("above", "level"))
        return TargetPlaces(above, level)

    def ranks(self, whole: bool) -> NDArray[np.float64]:
        """[targets] float64: each target's mean rank over all orders of its tie."""
        if self.protocol.ties == "expected rank":
            return self._column(f"rank_{_kind(whole)}")
        return self.places(whole).mean_rank

    def values(self, metric: str) -> NDArray[np.float64]:
        """[users] float64, in order of user_id: one metric, e.g. `ndcg@5`, per user.

        The mean of the metric over all orders of the target's tie; of older results, at the mean
        rank. A user with several targets counts once, with the mean over them.
        """
        whole, function, k = parse_metric(metric)
        try:
            if self.protocol.ties == "expected rank":
                values = function(self.ranks(whole), k)
            else:
                values = self.places(whole).expectation(function, k)
        except _NotRankedError as error:
            raise NotFoundError(f"no '{metric}' in this result: {error}") from None
        if self.protocol.users == self.protocol.targets:
            return values
        first = np.flatnonzero(
            (self.frame["user_id"] != self.frame["user_id"].shift()).fill_null(True)
        )
        sizes = np.diff(first, append=len(values))
        mean: NDArray[np.float64] = np.add.reduceat(values, first) / sizes
        return mean

    def metrics(self) -> dict[str, float]:
        """Means over the users of every metric at the protocol's cut-offs."""
        return {name: float(self.values(name).mean()) for name in metric_names(self.protocol)}

    def save(self, path: Path, *, replace: bool = False) -> None:
        """Write the folder `path` in one step; equal results make equal bytes."""
        write_result(Path(path), self.frame, self.protocol, self.versions, replace=replace)

    @classmethod
    def load(cls, path: Path) -> Result:
        """Read a folder that `save` wrote; whatever its protocol can't have made is refused."""
        return cls(*read_result(Path(path)))

    def _column(self, name: str) -> NDArray[Any]:
        column = self.frame[name]
        if column.null_count():
            kind = "the whole catalogue" if name.endswith("_full") else "candidates"
            raise _NotRankedError(f"it has no ranks among {kind}")
        return column.to_numpy()


class _NotRankedError(NotFoundError):
    """A ranking that wasn't asked for."""


def _kind(whole: bool) -> str:
    return "full" if whole else "candidates"


def metric_names(protocol: Protocol) -> list[str]:
    """What `Result.metrics` reports, in order: candidates first, then the whole catalogue."""
    names = []
    if protocol.candidates is not None:
        names += [f"{kind}@{k}" for kind in ("ndcg", "mrr", "hit") for k in protocol.at]
    if protocol.full:
        names += [f"full/{kind}@{k}" for kind in ("ndcg", "mrr", "recall") for k in protocol.at]
    return names
