"""Putting what a person uses of a run under plain names."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from weft.artifacts.atomic import new_directory
from weft.systems.plan import Plan
from weft.systems.published_files import record_places
from weft.systems.rows import StudyRow
from weft.systems.stages.weights import Published


def publish(rows: Iterable[StudyRow], plan: Plan, run: Path, serving: Mapping[str, str]) -> None:
    """Fill `results/<target>/<row>` (ranks; more seeds as `<row>-seed-<n>`) and
    `recommenders/<target>/<row>`, of the published rows, of baselines and of the row that each
    target is `serving`; what an earlier recipe of this run put there goes."""
    places: set[Path] = set()
    for one in rows:
        for name, stage in zip(one.folders, one.evaluations, strict=True):
            place = run / "results" / one.target / name
            places.add(place)
            with new_directory(place, replace=True) as folder:
                shutil.copytree(stage.result_folder(run), folder, dirs_exist_ok=True)
        wanted = one.published or serving.get(one.target) == one.row
        source = one.baseline or (one.weights if wanted else None)
        if source is not None:
            place = run / "recommenders" / one.target / one.name
            places.add(place)
            domain = plan.domains[one.target].domain(run)
            source.publish(run, place, Published(domain, plan.split, plan.scoring))
    record_places(run, places)
