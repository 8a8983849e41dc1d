"""recommendation.json: which row of a run to serve, for people and for `weft recommend`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weft.artifacts.atomic import write_json
from weft.report.model import ServingChoice

RECOMMENDATION, RECOMMENDERS = "recommendation.json", "recommenders"


def write_recommendations(choices: Sequence[ServingChoice], run: Path) -> None:
    """`recommenders/<target>/recommendation.json`, whose `folder` is beside it, and all of them in
    the run's `recommendation.json`, with folders from there; those of other targets go, and a
    target without a row to serve has none of its own."""
    places: set[Path] = set()
    every: list[dict[str, Any]] = []
    for one in choices:
        values = one.model_dump(mode="json")
        place = run / RECOMMENDERS / one.target / RECOMMENDATION
        if one.row is not None:
            places.add(place)
            write_json(place, values)
        folder = None if one.folder is None else f"{RECOMMENDERS}/{one.target}/{one.folder}"
        every.append({**values, "folder": folder})
    for place in (run / RECOMMENDERS).glob(f"*/{RECOMMENDATION}"):
        if place not in places:
            place.unlink()
    write_json(run / RECOMMENDATION, {"targets": every})
