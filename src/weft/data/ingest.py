"""Any format -> a domain folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from weft.artifacts.hashing import hash_file
from weft.data.build import Built, Left, build_domain
from weft.data.domain import Domain
from weft.data.filters import Counts, Filters, Removed, apply_filters, counts, describe
from weft.data.folder import check_free, save_domain, tied_users
from weft.data.raw import NO_BAD_ROWS, BadRows, RawLog
from weft.data.readers import find_reader, read_source
from weft.data.source import Source
from weft.data.titles import check_titles
from weft.names import check_name


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
    bad_rows: BadRows = NO_BAD_ROWS


def read_domain(
    source: Source, name: str | None = None, filters: Filters | None = None
) -> tuple[Domain, Left, RawLog]:
    """A log in any format as a domain, without writing it; `name` defaults to the file's.

    `filters` are not applied: rows that they will leave out are read without complaint.
    """
    built, raw = _read(source, name, filters)
    return built.domain, built.left, raw


def _read(source: Source, name: str | None, filters: Filters | None) -> tuple[Built, RawLog]:
    """The domain, and the tables with all notes on them."""
    path = source.interactions.resolve()
    name = name or (path.name if path.is_dir() else path.name.split(".")[0])
    check_name(name, "the domain's name")  # before the work, not after it
    raw = read_source(source)
    built = build_domain(
        raw,
        name,
        unlisted=source.unlisted,
        minimum_rating=source.minimum_rating,
        bad_rows=source.bad_rows,
        filters=filters,
    )
    titles = check_titles(built.domain.items.frame, raw, source, mapped=find_reader(source).mapped)
    return built, replace(raw, notes=(*raw.notes, *built.notes, *titles))


def ingest(
    source: Source,
    destination: str | Path,
    *,
    name: str | None = None,
    filters: Filters | None = None,
    replace: bool = False,
) -> IngestReport:
    """Read a log, filter it, write the domain folder `destination`, whole or not at all.

    `name` defaults to the folder's. A `DataError` names file, column and the first row of what
    can't be read; a folder that exists already is a `WriteError`, unless `replace`.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> log = "user,item_id,timestamp,title\\nann,a,1400000000,Chair\\nann,b,1400000060,Lamp\\n"
    >>> with TemporaryDirectory() as place:
    ...     file = Path(place) / "log.csv"
    ...     _ = file.write_text(log)
    ...     source = Source(interactions=file, columns={"user_id": "user"})
    ...     report = ingest(source, Path(place) / "shop")
    >>> report.name, report.format, report.written
    ('shop', 'csv', Counts(users=1, items=2, interactions=2))
    """
    folder = Path(destination)
    check_free(folder, replace=replace)  # before the work, not after it
    reader = find_reader(source)
    built, raw = _read(source, name or folder.resolve().name, filters)
    domain, left = built.domain, built.left
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
        bad_rows=built.bad,
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
