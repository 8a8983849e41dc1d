"""Domain folders: interactions.parquet + items.parquet + domain.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from weft.artifacts.atomic import new_directory, write_json
from weft.artifacts.documents import read_object
from weft.data.build import build_domain
from weft.data.domain import Domain
from weft.data.filters import counts
from weft.data.readers.parquet import read_pair
from weft.errors import DataError, WriteError
from weft.names import check_name

MANIFEST = "domain.json"


def load_domain(path: str | Path, name: str | None = None) -> Domain:
    """Load a domain folder (interactions.parquet, items.parquet).

    `name` defaults to that in domain.json, or without one to the folder's. Order: users by
    their first row in interactions.parquet, items by row of items.parquet, a user's interactions
    by (timestamp, row).

    A folder or table that is not there is a `NotFoundError`. A `DataError` names file, column and
    row of what can't be read, or says that the content is not the one whose hash domain.json holds.

    >>> from tempfile import TemporaryDirectory
    >>> from weft.data.mall import mall
    >>> with TemporaryDirectory() as place:
    ...     folder = save_domain(mall(users=60, items=40)["toys"], f"{place}/toys")
    ...     toys = load_domain(folder)
    >>> toys.name, len(toys.items), toys.sequences.lengths.sum()
    ('toys', 40, np.int64(453))
    """
    folder = Path(path)
    raw = read_pair(folder)
    manifest = read_object(folder / MANIFEST) if (folder / MANIFEST).is_file() else {}
    name = str(name or manifest.get("name") or folder.resolve().name)
    check_name(name, f"{folder}: the domain's name")
    domain = build_domain(raw, name, checked="hash" not in manifest).domain
    if "hash" in manifest and manifest["hash"] != domain.hash:
        raise DataError(
            f"{folder}: the tables are not those of domain.json (hash {domain.hash}, not"
            f" {manifest['hash']}); they were changed or damaged after they were written"
        )
    return domain


def save_domain(
    domain: Domain,
    path: str | Path,
    *,
    source: Mapping[str, Any] | None = None,
    filters: list[dict[str, Any]] | None = None,
    replace: bool = False,
) -> Path:
    """Write the domain folder, whole or not at all; loading it gives the same `hash`.

    domain.json holds the name, counts, hash, and what the caller records of the `source` and the
    `filters` (`filters.describe`). An existing folder is an error unless `replace`, which
    replaces domain folders only. Users without an interaction are not written.
    """
    sequences = domain.sequences
    log = pl.DataFrame(
        {
            "user_id": sequences.user_ids.gather(sequences.users),
            "item_id": domain.items.frame["item_id"].gather(sequences.item),
            "timestamp": sequences.time,
        }
    )
    manifest = {
        "name": domain.name,
        "format": 1,
        **asdict(counts(domain)),
        "users_with_ties": tied_users(domain),
        "hash": domain.hash,
        "source": dict(source or {}),
        "filters": filters or [],
    }
    check_free(Path(path), replace=replace)
    with new_directory(Path(path), replace=replace) as folder:
        log.write_parquet(folder / "interactions.parquet")
        domain.items.frame.write_parquet(folder / "items.parquet")
        write_json(folder / MANIFEST, manifest)
    return Path(path)


def check_free(folder: Path, *, replace: bool) -> None:
    """Raise `WriteError` if a domain can't be written to `folder`."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not replace:
        raise WriteError(f"{folder} exists already; name another folder, or replace it (--replace)")
    if not (folder / MANIFEST).is_file() and not (folder / "interactions.parquet").is_file():
        raise WriteError(f"{folder} is not a domain folder, so it is not replaced")


def tied_users(domain: Domain) -> int:
    """Number of users with two interactions of one time, whose order is the file's."""
    user, time = domain.sequences.users, domain.sequences.time
    tied = (user[1:] == user[:-1]) & (time[1:] == time[:-1])
    present = user[1:][tied]
    return int(pl.Series(present).n_unique()) if len(present) else 0
