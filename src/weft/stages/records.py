"""stage.json: what a finished stage was, what it left, and whether that is still there as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from weft.artifacts.atomic import write_json
from weft.artifacts.documents import read_object
from weft.artifacts.hashing import hash_json
from weft.artifacts.inventory import difference, parse_inventory, take_inventory
from weft.artifacts.versions import library_versions
from weft.errors import MismatchError, WeftError
from weft.stages.stage import FORMAT, STAGES, Stage, qualified_name

STAGE_FILE = "stage.json"


def write_record(stage: Stage, run: Path, out: Path, seconds: float) -> None:
    """Write stage.json beside all that a stage has left in `out`."""
    record = {
        "format": FORMAT,
        "stage": qualified_name(type(stage)),
        "version": stage.version,
        "label": stage.label,
        "settings": stage.inputs,
        "versions": library_versions(),
        "seconds": round(seconds, 1),
        "parents": {name: content(parent.folder(run)) for name, parent in stage.parents.items()},
        "files": take_inventory(out),
    }
    write_json(out / STAGE_FILE, record)


def read_record(folder: Path) -> dict[str, Any]:
    """A finished stage's stage.json; empty where it can't be read."""
    try:
        return read_object(folder / STAGE_FILE)
    except WeftError:
        return {}


def seconds_of(stage: Stage, run: Path) -> float | None:
    """How long a finished stage took, whichever attempt did it; None where nothing says it."""
    seconds = read_record(stage.folder(run)).get("seconds")
    return float(seconds) if isinstance(seconds, int | float) else None


def content(folder: Path) -> str | None:
    """A hash of all that a finished stage left, as its stage.json has it; None where it says
    nothing of that."""
    files = parse_inventory(read_record(folder).get("files"))
    return None if files is None else hash_json(files)


def refuse_older(run: Path) -> None:
    """A `MismatchError` where a run's folder holds stages of an earlier weft: their keys are others,
    so all of them would be done again beside the old ones."""
    for folder in sorted((run / STAGES).glob("*-*")):
        record = read_record(folder)
        if record and record.get("format") != FORMAT:
            raise MismatchError(
                f"{run} was begun by another version of weft and can't be gone on with: name another "
                "--out; its results, recommenders and report stay usable"
            )


def damage(folder: Path) -> str | None:
    """What is wrong with a finished stage's folder, in a few words."""
    if not folder.is_dir():
        return "it is no folder"
    try:
        record = read_object(folder / STAGE_FILE)
    except WeftError as error:
        return str(error).replace(str(folder / STAGE_FILE), STAGE_FILE)
    if not isinstance(record.get("seconds"), int | float):
        return f"{STAGE_FILE} does not say how long it took"
    files = parse_inventory(record.get("files"))
    if files is None:
        return f"{STAGE_FILE} has no list of files"
    return difference(folder, files, besides={STAGE_FILE})
