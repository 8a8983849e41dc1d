"""Putting what a person uses of a run under plain names."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from weft import __version__
from weft.adapters import load_adapter
from weft.artifacts.atomic import new_directory
from weft.backbones.load import find_backbone, fingerprint_of, stated_name
from weft.data.domain import Domain
from weft.data.splits import make_split
from weft.recommenders.checkpoint_folder import save_checkpoint_recommender
from weft.recommenders.floors import Floor, save_popularity, save_zero_shot
from weft.recommenders.folder import save_recommender
from weft.recommenders.integrator_folder import is_integrator, load_integrator, save_integrator
from weft.recommenders.item_counts import ItemCounts
from weft.stages.stage import Stage
from weft.systems.common_stages import CHECKPOINT, INTEGRATOR, domain_in
from weft.systems.costs import Cost
from weft.systems.plan import Plan
from weft.systems.publishing import record_places


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
    cost: Cost | None = None  # of a row that somebody would serve; None: it answers a question

    @property
    def name(self) -> str:
        """The row's name as a folder's."""
        return re.sub(r"[^\w.-]+", "-", self.row).strip("-")

    @property
    def folders(self) -> list[str]:
        """Under `results/<target>`: one for each evaluation."""
        return [self.name, *(f"{self.name}-seed-{seed}" for seed in self.more_seeds)]

    @property
    def floor(self) -> Floor | None:
        """Which floor the row is; a row of the recipe's own recommender alone can be a folder."""
        if self.adapter is not None or len(self.evaluations) != 1:
            return None
        settings = self.evaluations[0].settings
        if settings.get("floor") == "popularity":
            return "popularity"
        return "zero_shot" if self.row == "zero-shot" and "backbone" in settings else None

    @property
    def savable(self) -> bool:
        """Whether it can become a recommender's folder."""
        return self.adapter is not None or self.floor is not None


def publish(
    measured: Iterable[Measured], plan: Plan, run: Path, serving: Mapping[str, str]
) -> None:
    """Fill `results/<target>/<row>` (ranks; more seeds as `<row>-seed-<n>`) and
    `recommenders/<target>/<row>`, of the published rows and of the one that each target is
    `serving`; what an earlier recipe of this run put there goes."""
    kept: set[Path] = set()
    for one in measured:
        for name, stage in zip(one.folders, one.evaluations, strict=True):
            place = run / "results" / one.target / name
            kept.add(place)
            with new_directory(place, replace=True) as folder:
                shutil.copytree(stage.folder(run) / "result", folder, dirs_exist_ok=True)
        floor = one.floor
        wanted = one.published or serving.get(one.target) == one.row
        if floor is not None or (wanted and one.adapter is not None):
            domain = domain_in(plan.domains[one.target].folder(run))
            counts = ItemCounts.of(make_split(domain, plan.split).train)
            place = run / "recommenders" / one.target / one.name
            kept.add(place)
            if floor is not None:
                _publish_floor(floor, one, domain, counts, plan, place)
                continue
            assert one.adapter is not None
            made = one.adapter.folder(run)
            if (made / CHECKPOINT).is_dir():
                save_checkpoint_recommender(
                    made / CHECKPOINT,
                    domain.items,
                    place,
                    recommender=plan.recipe.recommender.model_dump(mode="json"),
                    split=plan.split,
                    replace=True,
                    counts=counts,
                )
                continue
            if is_integrator(made / INTEGRATOR):
                trained = load_integrator(made / INTEGRATOR)
                save_integrator(trained, domain.items, place, replace=True, counts=counts)
                continue
            adapter = load_adapter(made / "adapter")
            save_recommender(adapter, domain.items, place, replace=True, counts=counts)
    record_places(run, kept)


@cache
def _fingerprint(backbone: str) -> str:
    return fingerprint_of(find_backbone(backbone))


def _publish_floor(
    floor: Floor, one: Measured, domain: Domain, counts: ItemCounts, plan: Plan, place: Path
) -> None:
    manifest = {
        "domains": [domain.name],
        "data": {domain.name: domain.hash},
        "versions": {"weft": __version__},
    }
    if floor == "popularity":
        save_popularity(counts, place, split=plan.split, manifest=manifest, replace=True)
        return
    settings = one.evaluations[0].settings
    name = settings["backbone"]["name"]
    save_zero_shot(
        {"name": stated_name(name), "fingerprint": _fingerprint(name)},
        settings["recommender"],
        domain.items,
        place,
        split=plan.split,
        manifest=manifest,
        counts=counts,
        replace=True,
    )
