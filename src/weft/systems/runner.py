"""`weft run`: a recipe in, a report out; what is done already is not done again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from weft.artifacts.atomic import new_file, read_json, write_json
from weft.artifacts.hashing import hash_json
from weft.data.domain import Domain
from weft.data.splits import make_split
from weft.errors import WeftError, notice
from weft.evaluation.result import Result
from weft.report.build import domain_report
from weft.report.html import render_html
from weft.report.markdown import render_markdown
from weft.report.model import REPORT, DomainReport, RunReport, UserCase
from weft.stages.processes import Watch, run_stages
from weft.stages.stage import STAGE_FILE, Stage, discard_damaged, locked, missing, reached
from weft.systems.common_stages import (
    CURVE,
    SUGGESTIONS,
    domain_in,
    shown_users,
)
from weft.systems.estimate import Outlook, look_ahead
from weft.systems.measured import Measured, publish
from weft.systems.merge_stages import VECTORS
from weft.systems.notes import curve_of
from weft.systems.plan import Plan, default_device
from weft.systems.publishing import is_whole, record_files
from weft.systems.recipe import Study
from weft.systems.recommendation import write_recommendations
from weft.systems.registry import plan_stages, system_of
from weft.systems.reporting import (
    DomainFacts,
    data_hashes,
    row_warnings,
    stage_versions,
    unchanged,
)
from weft.systems.system import System

SHARED = ("activations", VECTORS)  # in scratch: what several stages keep for one another
STATE, HTML, MARKDOWN = "run.json", "report.html", "report.md"
REPORT_FORMAT = 3  # raised when reports say more or otherwise: finished runs are then reported anew


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
    planned: Callable[[Outlook], None] | None = None,
) -> RunReport:
    """Run a recipe in `folder` and return its report.

    Stages that are done are not done again. The folder then holds report.json, report.html and
    report.md, a recommender folder for each target's baseline and woven adapters
    (`recommenders/<target>/<row>`) and each row's ranks (`results/<target>/<row>`).

    On a CPU, `workers` processes of one thread each (all cores by default), so the outcome does
    not depend on the number of cores; on a GPU one process, or as many as `workers` says: small
    models leave room for several, which share the cores. `planned` is told before the first stage
    what there is to do.

    Finished stages are checked by their files' hashes first. A damaged one is made again, after a
    `WeftNotice`, and so is what rests on it if it comes out otherwise. What is missing or
    damaged of the report, the recommenders and the results is put there again.
    """
    device = device or default_device()
    workers = workers or default_workers(device)
    threads = 1 if device == "cpu" else max(1, (os.cpu_count() or 1) // workers)
    folder = Path(folder)
    plan = Plan(recipe, data, device)
    _, measured, stages = plan_stages(plan)
    key = hash_json(
        [REPORT_FORMAT, recipe.model_dump(mode="json"), [stage.key for stage in stages]]
    )
    _check_folder(folder)
    with locked(folder):
        damaged = discard_damaged(stages, folder)
        for sentence in damaged:
            notice(sentence)
        if not damaged and not missing(stages, folder) and _finished(folder, key):
            return RunReport.load(folder)
        stages = reached(stages)  # the report is made of them all
        if planned is not None:
            planned(look_ahead(plan, stages, folder, workers))
        run_stages(
            _cheapest_first(plan, stages), folder, workers=workers, threads=threads, watch=watch
        )
        for name in SHARED:  # nothing will ask for them again
            shutil.rmtree(folder / "scratch" / name, ignore_errors=True)
        report = build_report(recipe, measured, plan, folder, _timings(stages, folder))
        choices = [one.serving for one in report.domains if one.serving is not None]
        publish(measured, plan, folder, {one.target: one.row for one in choices if one.row})
        write_recommendations(choices, folder)
        report.save(folder)
        render_html(report, folder / HTML)
        with new_file(folder / MARKDOWN) as file:
            file.write_text(render_markdown(report), "utf-8")
        record_files(folder, STATE)
        write_json(folder / STATE, {"key": key, "recipe": recipe.model_dump(mode="json")})
        return report


def dry_run(
    recipe: Study,
    folder: Path,
    *,
    data: Path | None = None,
    workers: int | None = None,
    device: str | None = None,
) -> Outlook:
    """What `run` would do in `folder`, and how long it would take; no stage is done."""
    device = device or default_device()
    plan = Plan(recipe, data, device)
    stages = plan_stages(plan)[2]
    _check_folder(Path(folder))
    return look_ahead(plan, stages, Path(folder), workers or default_workers(device), strict=True)


def default_workers(device: str) -> int:
    """Processes unless a person says how many: all cores, and one on a GPU."""
    return 1 if device != "cpu" else os.cpu_count() or 1


def _cheapest_first(plan: Plan, stages: list[Stage]) -> list[Stage]:
    """The same stages with all domains first, then what rests on nothing else: data and backbones
    that don't fit the recipe are refused before hours of training."""
    domains = list(plan.domains.values())
    keys = {stage.key for stage in domains}
    simple = [s for s in stages if {parent.key for parent in s.parents.values()} <= keys]
    return [*domains, *simple, *stages]


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
    if not all((folder / name).is_file() for name in (REPORT, HTML, MARKDOWN)):
        return False
    try:
        state = read_json(folder / STATE)
    except WeftError:
        return False
    return isinstance(state, dict) and state.get("key") == key and is_whole(folder)


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
    every = {name: domain_in(stage.folder(run_folder)) for name, stage in plan.domains.items()}
    domains = {name: every[name] for name in targets}
    system = system_of(plan)
    trained = _trained(measured, run_folder)
    facts = DomainFacts(every, recipe.evaluate)
    fewer = facts.shortfalls(trained.values())
    tables = [_table(recipe, measured, target, run_folder, system, trained) for target in targets]
    return RunReport(
        title=recipe.name or "weft run",
        system=system.title,
        summary=_summary(recipe, domains, system),
        featured=system.featured,
        domains=[
            table.model_copy(
                update={
                    "facts": facts.targets(target),
                    "cautions": [*table.cautions, *fewer.pop(target, [])],
                }
            )
            for target, table in zip(targets, tables, strict=True)
        ],
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
            *(sentence for name in list(fewer) for sentence in fewer[name]),  # of mere sources
            *system.notes(run_folder),
        ],
        versions=stage_versions((s for one in measured for s in one.evaluations), run_folder),
        data=data_hashes(plan.domains, run_folder),
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
    recipe: Study,
    measured: list[Measured],
    target: str,
    run_folder: Path,
    system: System,
    trained: dict[str, Stage],
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
        costs={one.row: int(one.cost) for one in rows if one.cost is not None},
        folders={one.row: one.name for one in rows if one.savable},
        warnings={
            one.row: [
                *row_warnings(one, system.featured, trained, run_folder),
                *unchanged(one, results),
            ]
            for one in rows
        },
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
