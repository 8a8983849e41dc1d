"""Small logs for the tests of weft.data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from weft.data.domain import Catalogue, Domain, Sequences
from weft.data.ingest import read_domain
from weft.data.source import Source
from weft.errors import WeftError
from weft.settings import validate

Row = tuple[str, str, int]
DAY = 86_400
T0 = 1_400_000_000 // DAY * DAY


def write_pair(folder: Path, rows: Sequence[Sequence[Any]], items: Any = None) -> Path:
    """A domain folder with these (user, item, time) rows; items default to those that occur."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = ["user_id", "item_id", "timestamp"]
    log = pl.DataFrame([list(row) for row in rows], schema=columns, orient="row")
    log.write_parquet(folder / "interactions.parquet")
    if items is None:
        items = {i: f"Title of {i}" for i in dict.fromkeys(row[1] for row in rows)}
    if isinstance(items, dict) and "item_id" not in items:
        items = {"item_id": list(items), "title": list(items.values())}
    pl.DataFrame(items).write_parquet(folder / "items.parquet")
    return folder


def make_domain(rows: Sequence[Row], titles: dict[str, str] | None = None) -> Domain:
    """The domain of these rows, built the slow and plain way."""
    titles = titles or {i: f"Title of {i}" for i in dict.fromkeys(row[1] for row in rows)}
    index = {item: n for n, item in enumerate(titles)}
    users: dict[str, list[tuple[int, int]]] = {}
    for user, item, time in rows:
        users.setdefault(user, []).append((time, index[item]))
    ordered = [sorted(events, key=lambda e: e[0]) for events in users.values()]
    flat = [event for events in ordered for event in events]
    offsets = np.cumsum([0, *(len(events) for events in ordered)]).astype(np.int64)
    sequences = Sequences(
        pl.Series("user_id", list(users), dtype=pl.String),
        offsets,
        np.array([item for _, item in flat], dtype=np.int32),
        np.array([time for time, _ in flat], dtype=np.int64),
    )
    frame = pl.DataFrame({"item_id": list(titles), "title": list(titles.values())})
    return Domain("test", Catalogue(frame), sequences)


def as_dict(domain: Domain) -> dict[str, list[tuple[str, int]]]:
    """user -> [(item, time), …], to compare with."""
    s, ids = domain.sequences, domain.items.item_ids
    return {
        user: [(ids[i], t) for i, t in zip(s.of(n).tolist(), s.time[s.offsets[n] : s.offsets[n + 1]].tolist(), strict=True)]
        for n, user in enumerate(s.user_ids.to_list())
    }  # fmt: skip


def pairs(examples: Any) -> set[tuple[str, int]]:
    """{(user, end)}; no example may come twice."""
    out = list(zip(examples.user_ids(), examples.end.tolist(), strict=True))
    assert len(out) == len(set(out))
    return set(out)


def random_rows(seed: int, n: int, users: int, items: int, span: int = 40) -> list[Row]:
    rng = np.random.default_rng(seed)
    return [
        (f"u{u}", f"i{i}", T0 + int(t) * DAY // 3)
        for u, i, t in zip(
            rng.integers(users, size=n), rng.integers(items, size=n), rng.integers(span, size=n),
            strict=True,
        )
    ]  # fmt: skip


def notes(path: Path, **options: Any) -> tuple[str, ...]:
    """What ingest says of a log."""
    return read_domain(validate(Source, {"interactions": path, **options}))[2].notes


def refused(path: Path, **options: Any) -> str:
    """The one sentence with which ingest refuses a log, without its folder."""
    with pytest.raises(WeftError) as caught:
        read_domain(validate(Source, {"interactions": path, **options}))
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{path.parent}/", "")
