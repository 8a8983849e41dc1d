"""A result's folder: ranks.parquet and protocol.json, checked against each other when read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from weft.artifacts.atomic import new_directory, write_json
from weft.artifacts.documents import read_object
from weft.artifacts.hashing import hash_arrays, hash_json
from weft.errors import DataError, NotFoundError
from weft.evaluation.protocol import Protocol
from weft.settings.files import validate_file

RANKS, PROTOCOL = "ranks.parquet", "protocol.json"
FORMAT = 2  # 1, without a number: mean ranks, no hash

TARGET = {"user_id": pl.String, "item_id": pl.String, "position": pl.Int64}
SCHEMA = TARGET | {
    "above_candidates": pl.Int64,
    "level_candidates": pl.Int64,
    "above_full": pl.Int64,
    "level_full": pl.Int64,
}
RANK_SCHEMA = TARGET | {"rank_candidates": pl.Float64, "rank_full": pl.Float64}
"""Of older results, whose ties are "expected rank"."""

_MOST_ITEMS = 2**31  # an item's index is an int32


def schema_of(protocol: Protocol) -> dict[str, type[pl.DataType]]:
    """The columns of a result's frame under a protocol."""
    return SCHEMA if protocol.ties == "expected metric" else RANK_SCHEMA


def write_result(
    folder: Path,
    frame: pl.DataFrame,
    protocol: Protocol,
    versions: Mapping[str, str],
    *,
    replace: bool = False,
) -> None:
    """Write a result's folder in one step; equal results make equal bytes."""
    record = protocol.model_dump(mode="json")
    head = {"format": FORMAT, "hash": _hash(frame, record), "versions": dict(versions)}
    with new_directory(folder, replace=replace) as out:
        frame.write_parquet(out / RANKS, compression="zstd", statistics=True)
        write_json(out / PROTOCOL, head | record)


def read_result(folder: Path) -> tuple[pl.DataFrame, Protocol, dict[str, str]]:
    """The frame, the protocol and the versions of a folder; a `DataError` names file, row and value
    of anything that the protocol can't have made."""
    if not (folder / PROTOCOL).is_file() or not (folder / RANKS).is_file():
        raise NotFoundError(f"{folder} is no result folder: it needs {RANKS} and {PROTOCOL}")
    values = read_object(folder / PROTOCOL)
    head = {name: values.pop(name, None) for name in ("format", "hash", "versions")}
    _check_format(head, values, folder / PROTOCOL)
    protocol = validate_file(folder / PROTOCOL, Protocol, values, DataError)
    try:
        frame = pl.read_parquet(folder / RANKS, glob=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{folder / RANKS} can't be read: {error}") from None
    schema = schema_of(protocol)
    if dict(frame.schema) != schema:
        raise DataError(
            f"{folder / RANKS} needs the columns {', '.join(f'{n} ({t})' for n, t in schema.items())}"
        )
    _check_targets(frame, protocol, folder)
    _check_places(frame, protocol, folder / RANKS)
    if head["hash"] is not None and head["hash"] != _hash(frame, values):
        raise DataError(
            f"{folder}: {RANKS} and {PROTOCOL} are not those that were written together (their hash "
            "is another); they were changed or damaged, so measure again"
        )
    return frame.sort("user_id", "position"), protocol, dict(head["versions"] or {})


def hash_users(frame: pl.DataFrame) -> str:
    """A hash of who is asked and for what, whatever the order of the rows."""
    columns = ["user_id", "item_id", "position"]
    return hash_json(frame.select(columns).sort(columns).rows())


def _hash(frame: pl.DataFrame, protocol: Mapping[str, Any]) -> str:
    """Of every row, in the order of users and positions, and of the protocol (whose `users_hash`
    is of the targets)."""
    columns = frame.sort("user_id", "position").drop("user_id", "item_id", "position")
    measured = {one.name: one.to_numpy() for one in columns if not one.null_count()}
    return hash_arrays(measured, dict(protocol))


def _check_format(head: Mapping[str, Any], values: dict[str, Any], file: Path) -> None:
    number, versions = head["format"], head["versions"]
    if number is None:  # older, when every result had mean ranks
        if values.setdefault("ties", "expected rank") != "expected rank":
            raise DataError(f"{file}: format is missing; results of these ties have {FORMAT}")
        return
    if type(number) is not int or number != FORMAT:
        raise DataError(f"{file}: format is {number!r}, and this weft reads {FORMAT} and older")
    if not isinstance(head["hash"], str):
        raise DataError(f"{file}: hash is missing")
    if values.get("ties") == "expected metric" and values.get("items") is None:
        raise DataError(f"{file}: items is missing: the size of the catalogue")
    if not isinstance(versions, dict) or not all(isinstance(one, str) for one in versions.values()):
        raise DataError(f"{file}: versions must be an object of names and versions")


def _check_targets(frame: pl.DataFrame, protocol: Protocol, folder: Path) -> None:
    for name in TARGET:
        wrong = frame[name].is_null() | ((frame[name] < 1) if name == "position" else False)
        _refuse_first(wrong, frame, name, folder / RANKS, "a target needs one, from 1 on"
                      if name == "position" else "a target needs one")  # fmt: skip
    counts = {"targets": frame.height, "users": frame["user_id"].n_unique()}
    for name, count in counts.items():
        if count != getattr(protocol, name):
            raise DataError(
                f"{folder}: {RANKS} has {count:,} {name}, and {PROTOCOL} says "
                f"{getattr(protocol, name):,}"
            )
    if hash_users(frame) != protocol.users_hash:
        raise DataError(f"{folder}: the users in {RANKS} are not those of {PROTOCOL}")


def _check_places(frame: pl.DataFrame, protocol: Protocol, file: Path) -> None:
    """Every rank is one that the protocol allows: of 30 candidates none is 31st."""
    wholes = protocol.items or _MOST_ITEMS if protocol.full else None
    for kind, count in (("candidates", protocol.among), ("full", wholes)):
        names = [name for name in schema_of(protocol) if name.endswith(f"_{kind}")]
        if count is None:
            for name in names:
                why = f"{PROTOCOL} says that this ranking was not made"
                _refuse_first(frame[name].is_not_null(), frame, name, file, why)
            continue
        among = f"{count:,} " + ("candidates" if kind == "candidates" else "items")
        for name in names:
            why = f"{PROTOCOL} says that each target was ranked among {among}"
            _refuse_first(frame[name].is_null(), frame, name, file, why)
        if protocol.ties == "expected rank":
            ranks = frame[names[0]].to_numpy()
            with np.errstate(invalid="ignore"):
                fits = (ranks >= 1) & (ranks <= count) & (2 * ranks % 1 == 0)
            why = f"a rank among {among} is 1 to {count:,}, in halves"
            _refuse_first(~fits, frame, names[0], file, why)
            continue
        above, level = (frame[name].to_numpy() for name in names)
        for name, values, most in (
            (names[0], above, count - 1),
            (names[1], level, count - 1 - np.clip(above, 0, count - 1)),
        ):
            why = f"of {among}, {count - 1:,} at most can stand above a target or level with it"
            _refuse_first((values < 0) | (values > most), frame, name, file, why)


def _refuse_first(
    wrong: pl.Series | NDArray[np.bool_], frame: pl.DataFrame, name: str, file: Path, why: str
) -> None:
    """A `DataError` about the first wrong row, if there is one."""
    rows = np.flatnonzero(np.asarray(wrong))
    if len(rows):
        row = int(rows[0])
        user = frame["user_id"][row]
        raise DataError(
            f"{file}: row {row + 1} (user '{user}'): {name} is {frame[name][row]}; {why}"
        )
