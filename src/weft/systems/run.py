"""`weft run`: a recipe in, a report out; what is done already is not done again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from weft.artifacts.atomic import new_file, read_json, write_json
from weft.artifacts.hashing import hash_json
from weft.artifacts.stages import STAGE_FILE, Stage, locked, missing, reached
from weft.artifacts.workers import Watch, run_stages
from weft.data.domain import Domain
from weft.data.splits import make_split
from weft.errors import WeftError
from weft.evaluation.result import Result
from weft.report.build import domain_report
from weft.report.html import render_html
from weft.report.markdown import render_markdown
from weft.report.model import REPORT, DomainReport, RunReport, UserCase
from weft.systems.fusing import VECTORS
from weft.systems.known import system_of
from weft.systems.plan import Plan, default_device
from weft.systems.publish import Measured, publish
from weft.systems.recipe import Study
from weft.systems.said import collapsed, counted, curve_of
from weft.systems.steps import (
    CURVE,
    SUGGESTIONS,
    domain_in,
    shown_users,
)
from weft.systems.study import System

SHARED = ("activations", VECTORS)  # in scratch: what several stages keep for one another
STATE, HTML, MARKDOWN = "run.json", "report.html", "report.md"
REPORT_FORMAT = 2  # raised when reports say more or otherwise: finished runs are then reported anew


def measured_rows(recipe: Study, plan: Plan) -> list[Measured]:
    """Every row of every target's table, floors first."""
    return system_of(plan).measured()


def run(
    recipe: Study,
    folder: Path,
    *,
    data: Path | None = None,
    workers: int | None = None,
    device: str | None = None,
    watch: Watch | None = None,
    planned: Callable[[int], None] | None = None,
) -> RunReport:
    """Run a recipe in `folder` and return its report.

    Stages that are done are not done again. The folder then holds report.json, report.html and
    report.md, a recommender folder for each target's baseline and woven adapters
    (`recommenders/<target>/<row>`) and each row's ranks (`results/<target>/<row>`).

    On a CPU, `workers` processes of one thread each (all cores by default), so the outcome does
    not depend on the number of cores; on a GPU one process, or as many as `workers` says: small
    models leave room for several, which share the cores.
    """
    device = device or default_device()
    workers = workers or (1 if device != "cpu" else os.cpu_count() or 1)
    threads = 1 if device == "cpu" else max(1, (os.cpu_count() or 1) // workers)
    folder = Path(folder)
    plan = Plan(recipe, data, device)
    system = system_of(plan)
    measured = system.measured()
    stages = [*(stage for one in measured for stage in one.evaluations), *system.further()]
    key = hash_json(
        [REPORT_FORMAT, recipe.model_dump(mode="json"), [stage.key for stage in stages]]
    )
    _check_folder(folder)
    with locked(folder):
        todo = missing(stages, folder)
        if not todo and _finished(folder, key):
            return RunReport.load(folder)
        if planned is not None:
            planned(len(todo))
        run_stages(stages, folder, workers=workers, threads=threads, watch=watch)
        for name in SHARED:  # nothing will ask for them again
            shutil.rmtree(folder / "scratch" / name, ignore_errors=True)
        report = build_report(recipe, measured, plan, folder, _timings(stages, folder))
        publish(measured, plan, folder)
        report.save(folder)
        render_html(report, folder / HTML)
        with new_file(folder / MARKDOWN) as file:
            file.write_text(render_markdown(report), "utf-8")
        write_json(folder / STATE, {"key": key, "recipe": recipe.model_dump(mode="json")})
        return report


def _check_folder(folder: Path) -> None:
    """A run's folder is new, empty, or a run's: nobody else's files are touched."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise WeftError(f"{folder} is a file; name a folder for the run")
    own = {"stages", ".lock", STATE}
    present = {path.name for path in folder.iterdir()}
    if present and not present & own:
        raise WeftError(f"{folder} holds other files and no run; name a new folder")


def _finished(folder: Path, key: str) -> bool:
    """Whether this very report is there, whole."""
    if not all((folder / name).is_file() for name in (STATE, REPORT, HTML, MARKDOWN)):
        return False
    try:
        state = read_json(folder / STATE)
    except WeftError:
        return False
    return isinstance(state, dict) and state.get("key") == key


def _timings(stages: list[Stage], folder: Path) -> dict[str, float]:
    """Seconds of every stage, whichever attempt did it."""
    return {
        stage.label: float(read_json(stage.folder(folder) / STAGE_FILE)["seconds"])
        for stage in reached(stages)
        if (stage.folder(folder) / STAGE_FILE).is_file()
    }


def build_report(
    recipe: Study,
    measured: list[Measured],
    plan: Plan,
    run_folder: Path,
    timings: dict[str, float],
) -> RunReport:
    """The report out of finished stages."""
    targets = list(dict.fromkeys(one.target for one in measured))
    domains = {name: domain_in(plan.domains[name].folder(run_folder)) for name in targets}
    system = system_of(plan)
    trained = _trained(measured, run_folder)
    return RunReport(
        title=recipe.name or "weft run",
        system=system.title,
        summary=_summary(recipe, domains, system),
        featured=system.featured,
        domains=[_table(recipe, measured, target, run_folder, system) for target in targets],
        learning_curves={label: curve_of(stage, run_folder) for label, stage in trained.items()},
        branches={label: system.branch(stage) for label, stage in trained.items()},
        validation_metric="NDCG@10 "
        + ("among candidates" if recipe.evaluate.candidates else "of all"),
        users=[
            case
            for place, (target, domain) in enumerate(domains.items())
            for case in _users(recipe, measured, target, domain, run_folder, place, len(domains))
        ],
        tables=system.tables(run_folder, timings),
        notes=[
            *recipe.notes,
            *collapsed(measured, trained, run_folder),
            *counted(measured, system.featured, run_folder),
            *system.notes(run_folder),
        ],
        timings=timings,
    )


def _summary(recipe: Study, domains: dict[str, Domain], system: System) -> str:
    seeds = {s.name: len(s.seeds) + 1 for s in recipe.domains if s.seeds}
    words = [
        f"{len(recipe.domains)} domains, {len(domains)} of them targets.",
        f"Backbone {recipe.backbone}; {system.said()}; seed {recipe.seed}.",
    ]
    for name, count in seeds.items():
        words.append(f"{name} is run with {count} seeds.")
    if recipe.mall is not None:
        words.append("The data are generated (synthetic).")
    return " ".join(words)


def _table(
    recipe: Study, measured: list[Measured], target: str, run_folder: Path, system: System
) -> DomainReport:
    rows = [one for one in measured if one.target == target]
    results: dict[str, Result | list[Result]] = {}
    for one in rows:
        loaded = [Result.load(s.folder(run_folder) / "result") for s in one.evaluations]
        results[one.row] = loaded[0] if len(loaded) == 1 else loaded
    return domain_report(
        results,
        system.baseline,
        about={one.row: one.about for one in rows},
        headline=recipe.headline,
        contrasts=system.contrasts,
    )


def _trained(measured: list[Measured], run_folder: Path) -> dict[str, Stage]:
    """Every branch that a merge or a row uses and that has a learning curve, by label."""
    found: dict[str, Stage] = {}
    todo = [stage for one in measured for stage in one.evaluations]
    while todo:
        stage = todo.pop(0)
        todo.extend(stage.parents.values())
        if stage.label not in found and (stage.folder(run_folder) / CURVE).is_file():
            found[stage.label] = stage
    return found


def _users(
    recipe: Study,
    measured: list[Measured],
    target: str,
    domain: Domain,
    run_folder: Path,
    place: int,
    places: int,
) -> Iterator[UserCase]:
    """This target's share of the users shown: `show_users` in all, dealt out over the targets.

    Which ones is decided by their place in the domain, never by how well they are served.
    """
    share = len(range(place, recipe.show_users, places))
    shown = shown_users(make_split(domain, recipe.evaluate.split).test, recipe.show_users)
    shown = shown.take(np.sort((np.arange(min(share, len(shown))) + place) % max(1, len(shown))))
    if not len(shown):
        return
    titles = domain.items.titles
    said = {
        one.row: read_json(one.evaluations[0].folder(run_folder) / SUGGESTIONS)
        for one in measured
        if one.target == target and one.published
    }
    for user, history, item in zip(
        shown.user_ids(), shown.histories(), shown.targets.tolist(), strict=True
    ):
        yield UserCase(
            domain=target,
            user=user,
            history=[titles[i] for i in history.tolist()],
            target=titles[item],
            suggestions={row: by_user[user] for row, by_user in said.items()},
        )
