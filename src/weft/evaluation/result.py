"""A result: each user's ranks, and the protocol that made them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import ValidationError

from weft.artifacts.atomic import new_directory, read_json, write_json
from weft.artifacts.hashing import hash_json
from weft.errors import WeftError
from weft.evaluation.metrics import parse_metric
from weft.evaluation.protocol import Protocol

SCHEMA = {
    "user_id": pl.String,
    "item_id": pl.String,
    "position": pl.Int64,
    "rank_candidates": pl.Float64,
    "rank_full": pl.Float64,
}
RANKS, PROTOCOL = "ranks.parquet", "protocol.json"


@dataclass(frozen=True, eq=False)
class Result:
    """`frame`, a row per target, sorted by `user_id` and `position`.

    Columns: `user_id`, `item_id` (the target), `position` (of the target in the sequence),
    `rank_candidates` and `rank_full` (expected ranks; null where that ranking wasn't asked for).
    """

    frame: pl.DataFrame
    protocol: Protocol

    def values(self, metric: str) -> NDArray[np.float64]:
        """[users] float64, in order of user_id: one metric, e.g. `ndcg@5`, per user.

        A user with several targets counts once, with the mean over them.
        """
        whole, function, k = parse_metric(metric)
        ranks = self.frame["rank_full" if whole else "rank_candidates"]
        if ranks.null_count():
            kind = "the whole catalogue" if whole else "candidates"
            raise WeftError(f"no '{metric}' in this result: it has no ranks among {kind}")
        values = function(ranks.to_numpy(), k)
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
        with new_directory(Path(path), replace=replace) as folder:
            self.frame.write_parquet(folder / RANKS, compression="zstd", statistics=True)
            write_json(folder / PROTOCOL, self.protocol.model_dump(mode="json"))

    @classmethod
    def load(cls, path: Path) -> Result:
        """Read a folder that `save` wrote, and check that ranks and protocol belong together."""
        folder = Path(path)
        if not (folder / PROTOCOL).is_file() or not (folder / RANKS).is_file():
            raise WeftError(f"{folder} is no result folder: it needs {RANKS} and {PROTOCOL}")
        try:
            protocol = Protocol.model_validate(read_json(folder / PROTOCOL))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise WeftError(f"{folder / PROTOCOL}: {field}: {first['msg']}") from None
        try:
            frame = pl.read_parquet(folder / RANKS)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise WeftError(f"{folder / RANKS} can't be read: {error}") from None
        if dict(frame.schema) != SCHEMA:
            raise WeftError(f"{folder / RANKS} needs the columns {', '.join(SCHEMA)}")
        if hash_users(frame) != protocol.users_hash:
            raise WeftError(f"{folder}: the users in {RANKS} are not those of {PROTOCOL}")
        return cls(frame, protocol)


def metric_names(protocol: Protocol) -> list[str]:
    """What `Result.metrics` reports, in order: candidates first, then the whole catalogue."""
    names = []
    if protocol.candidates is not None:
        names += [f"{kind}@{k}" for kind in ("ndcg", "mrr", "hit") for k in protocol.at]
    if protocol.full:
        names += [f"full/{kind}@{k}" for kind in ("ndcg", "mrr", "recall") for k in protocol.at]
    return names


def hash_users(frame: pl.DataFrame) -> str:
    """A hash of who is asked and for what, whatever the order of the rows."""
    columns = ["user_id", "item_id", "position"]
    return hash_json(frame.select(columns).sort(columns).rows())
