"""Putting what a person uses of a run under plain names."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from weft.adapters import load_adapter
from weft.artifacts.atomic import new_directory, read_json, write_json
from weft.artifacts.stages import Stage
from weft.recommenders.checkpoint_folder import save_checkpoint_recommender
from weft.recommenders.folder import save_recommender
from weft.recommenders.integrator_folder import is_integrator, load_integrator, save_integrator
from weft.systems.plan import Plan
from weft.systems.steps import CHECKPOINT, INTEGRATOR, domain_in

PUBLISHED = "stages/published.json"


@dataclass(frozen=True)
class Measured:
    """One row of one target: what it is, its adapter, and its result for each seed."""

    target: str
    row: str
    about: str
    adapter: Stage | None
    evaluations: list[Stage]  # the recipe's seed first, then `more_seeds`
    more_seeds: tuple[int, ...] = ()
    published: bool = False  # its adapter becomes a recommender folder

    @property
    def name(self) -> str:
        """The row's name as a folder's."""
        return re.sub(r"[^\w.-]+", "-", self.row).strip("-")


def publish(measured: Iterable[Measured], plan: Plan, run: Path) -> None:
    """Fill `results/<target>/<row>` (ranks; more seeds as `<row>-seed-<n>`) and
    `recommenders/<target>/<row>`; what an earlier recipe of this run put there goes."""
    kept: set[Path] = set()
    for one in measured:
        names = [one.name, *(f"{one.name}-seed-{seed}" for seed in one.more_seeds)]
        for name, stage in zip(names, one.evaluations, strict=True):
            place = run / "results" / one.target / name
            kept.add(place)
            with new_directory(place, replace=True) as folder:
                shutil.copytree(stage.folder(run) / "result", folder, dirs_exist_ok=True)
        if one.published and one.adapter is not None:
            domain = domain_in(plan.domains[one.target].folder(run))
            made = one.adapter.folder(run)
            place = run / "recommenders" / one.target / one.name
            kept.add(place)
            if (made / CHECKPOINT).is_dir():
                save_checkpoint_recommender(
                    made / CHECKPOINT,
                    domain.items,
                    place,
                    recommender=plan.recipe.recommender.model_dump(mode="json"),
                    split=plan.split,
                    replace=True,
                )
                continue
            if is_integrator(made / INTEGRATOR):
                trained = load_integrator(made / INTEGRATOR)
                save_integrator(trained, domain.items, place, replace=True)
                continue
            adapter = load_adapter(made / "adapter")
            save_recommender(adapter, domain.items, place, replace=True)
    said = run / PUBLISHED
    before = read_json(said) if said.is_file() else []
    names = sorted(str(place.relative_to(run)) for place in kept)
    for name in set(before) - set(names):
        shutil.rmtree(run / name, ignore_errors=True)
    write_json(said, names)
