"""Any format -> a domain folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from weft.artifacts.hashing import hash_file
from weft.data.build import Left, build_domain
from weft.data.domain import Domain
from weft.data.filters import Counts, Filters, Removed, apply_filters, counts, describe
from weft.data.folder import check_free, save_domain, tied_users
from weft.data.raw import RawLog
from weft.data.readers import find_reader, read_source
from weft.data.source import Source


@dataclass(frozen=True)
class IngestReport:
    """What came in, what was left out on the way, and what was written."""

    name: str
    path: str
    format: str
    read: Counts
    left: Left
    removed: tuple[Removed, ...]
    written: Counts
    users_with_ties: int
    hash: str
    notes: tuple[str, ...]


def read_domain(source: Source, name: str | None = None) -> tuple[Domain, Left, RawLog]:
    """A log in any format as a domain, without writing it; `name` defaults to the file's."""
    raw = read_source(source)
    given = source.interactions.resolve()
    name = name or (given.name if given.is_dir() else given.name.split(".")[0])
    domain, left = build_domain(
        raw, name, unlisted=source.unlisted, minimum_rating=source.minimum_rating
    )
    return domain, left, raw


def ingest(
    source: Source,
    destination: str | Path,
    *,
    name: str | None = None,
    filters: Filters | None = None,
    replace: bool = False,
) -> IngestReport:
    """Read a log, filter it, write the domain folder `destination`, whole or not at all.

    `name` defaults to the folder's. Raises `WeftError` naming file, column and first row, and if
    the folder exists already, unless `replace`.
    """
    folder = Path(destination)
    check_free(folder, replace=replace)  # before the work, not after it
    reader = find_reader(source)
    domain, left, raw = read_domain(source, name or folder.resolve().name)
    read = counts(domain)
    domain, removed = apply_filters(domain, filters or Filters())
    origin = _origin(source, reader.name, raw, left)
    save_domain(domain, folder, source=origin, filters=describe(removed), replace=replace)
    return IngestReport(
        name=domain.name,
        path=str(folder),
        format=reader.name,
        read=read,
        left=left,
        removed=removed,
        written=counts(domain),
        users_with_ties=tied_users(domain),
        hash=domain.hash,
        notes=raw.notes,
    )


def _origin(source: Source, format: str, raw: RawLog, left: Left) -> Mapping[str, Any]:
    """For the manifest: files by name and content, the settings, what building left out."""
    settings = source.model_dump(
        mode="json", exclude={"interactions", "items", "format"}, exclude_defaults=True
    )
    tables = {"interactions": raw.interactions} | ({"items": raw.items} if raw.items else {})
    files = {
        role: {"file": table.file.name, "sha256": hash_file(table.file)}
        for role, table in tables.items()
    }
    return {"format": format, **files, "settings": settings, "left": asdict(left)}
