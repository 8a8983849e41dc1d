"""What a finished run has put under plain names, so that what is gone or damaged is put there again."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from weft.artifacts.atomic import write_json
from weft.artifacts.documents import read_object
from weft.artifacts.inventory import difference, files_in, parse_inventory, take_inventory
from weft.errors import WeftError
from weft.report.model import RunReport

RECORD = "stages/published.json"
ROOMS = ("results", "recommenders")  # folders of a run that hold <target>/<row>


def record_places(run: Path, places: Iterable[Path]) -> None:
    """Remove what an earlier recipe of this run put into places that are none any more, and note
    those that there are."""
    names = sorted(place.relative_to(run).as_posix() for place in places)
    for name in set(_places(run)) - set(names):
        shutil.rmtree(run / name, ignore_errors=True)
    write_json(run / RECORD, {"places": names})


def record_files(run: Path, besides: str) -> None:
    """Note every file of the noted places, of the report, and directly below a target's folder,
    with its hash; `besides` is a file of the run's folder that is written later."""
    places = _places(run)
    folders = [run, *(folder for room in ROOMS for folder in run.glob(f"{room}/*"))]
    files = [path for folder in folders for path in folder.glob("*") if path.is_file()]
    names = {path.relative_to(run).as_posix() for path in files if path.name[:1] != "."}
    names |= {f"{place}/{name}" for place in places for name in files_in(run / place)}
    inventory = take_inventory(run, names - {besides})
    write_json(run / RECORD, {"places": places, "files": inventory})


def is_whole(run: Path) -> bool:
    """Whether the report can be read and all that was noted is there as it was."""
    try:
        RunReport.load(run)
        record = read_object(run / RECORD)
    except WeftError:
        return False
    files = parse_inventory(record.get("files"))
    return files is not None and difference(run, files) is None


def _places(run: Path) -> list[str]:
    """The noted places; one that is no run's is left out, since what is noted may be removed."""
    try:
        places = read_object(run / RECORD).get("places")
    except WeftError:
        return []
    return [name for name in places if _is_place(name)] if isinstance(places, list) else []


def _is_place(name: object) -> bool:
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    return len(parts) == 3 and parts[0] in ROOMS and not {"..", "."} & set(parts)
