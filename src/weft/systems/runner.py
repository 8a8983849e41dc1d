"""`weft run`: a recipe in, a report out; what is done already is not done again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from weft.artifacts.atomic import new_file, read_json, write_json
from weft.artifacts.hashing import hash_json
from weft.errors import WeftError, WriteError, notice
from weft.report.html import render_html
from weft.report.markdown import render_markdown
from weft.report.model import REPORT, RunReport
from weft.stages.executor import Bounds, Executor, Watch, run_stages
from weft.stages.graph import discard_damaged, missing, reached
from weft.stages.locking import locked
from weft.stages.processes import ProcessExecutor
from weft.stages.records import refuse_older
from weft.stages.stage import SCRATCH, SHARED, STAGES, Stage
from weft.systems.estimate import RunEstimate, estimate_run
from weft.systems.plan import Plan, default_device
from weft.systems.published_files import is_whole, record_files
from weft.systems.publishing import publish
from weft.systems.recipe import StudyRecipe
from weft.systems.recommendation_file import write_recommendations
from weft.systems.registry import plan_stages
from weft.systems.study_report import StudyReport, timings

STATE, HTML, MARKDOWN = "run.json", "report.html", "report.md"
REPORT_FORMAT = 3  # raised when reports say more or otherwise: finished runs are then reported anew


def run(
    recipe: StudyRecipe,
    folder: Path | str,
    *,
    data: Path | str | None = None,
    workers: int | None = None,
    device: str | None = None,
    watch: Watch | None = None,
    planned: Callable[[RunEstimate], None] | None = None,
) -> RunReport:
    """Run a recipe in `folder` and return its report.

    Stages that are done are not done again. The folder then holds report.json, report.html and
    report.md, a recommender folder for each target's baseline and woven adapters
    (`recommenders/<target>/<row>`) and each row's ranks (`results/<target>/<row>`).

    On a CPU, `workers` processes of one thread each (all cores by default), so the outcome does
    not depend on the number of cores; on a GPU one process, or as many as `workers` says: small
    models leave room for several, which share the cores. `planned` is called before the first
    stage with what there is to do.

    Finished stages are checked by their files' hashes first. A damaged one is made again, after a
    `WeftNotice`, and so is what rests on it if it comes out otherwise. What is missing or
    damaged of the report, the recommenders and the results is put there again.
    """
    device = device or default_device()
    workers = workers or default_workers(device)
    threads = 1 if device == "cpu" else max(1, (os.cpu_count() or 1) // workers)
    executor = ProcessExecutor(Bounds(workers), threads)
    plan = Plan(recipe, None if data is None else Path(data), device)
    return run_plan(plan, Path(folder), executor, watch=watch, planned=planned)


def run_plan(
    plan: Plan,
    folder: Path,
    executor: Executor,
    *,
    watch: Watch | None = None,
    planned: Callable[[RunEstimate], None] | None = None,
) -> RunReport:
    """`run` of a plan, by any executor."""
    system, rows, stages = plan_stages(plan)
    recipe = plan.recipe.model_dump(mode="json")
    key = hash_json([REPORT_FORMAT, recipe, [stage.key for stage in stages]])
    _check_folder(folder)
    with locked(folder):
        damaged = discard_damaged(stages, folder)
        for sentence in damaged:
            notice(sentence)
        if not damaged and not missing(stages, folder) and _finished(folder, key):
            return RunReport.load(folder)
        stages = reached(stages)  # the report is written of them all
        if planned is not None:
            planned(estimate_run(plan, stages, folder, executor.bounds.processes))
        run_stages(_cheapest_first(plan, stages), folder, executor, watch)
        shutil.rmtree(folder / SCRATCH / SHARED, ignore_errors=True)  # nothing will ask for it
        report = StudyReport(system, rows, folder).build(timings(stages, folder))
        choices = [one.serving for one in report.domains if one.serving is not None]
        publish(rows, plan, folder, {one.target: one.row for one in choices if one.row})
        write_recommendations(choices, folder)
        report.save(folder)
        render_html(report, folder / HTML)
        with new_file(folder / MARKDOWN) as file:
            file.write_text(render_markdown(report), "utf-8")
        record_files(folder, STATE)
        write_json(folder / STATE, {"key": key, "recipe": recipe})
        return report


def dry_run(
    recipe: StudyRecipe,
    folder: Path | str,
    *,
    data: Path | str | None = None,
    workers: int | None = None,
    device: str | None = None,
) -> RunEstimate:
    """What `run` would do in `folder`, and how long it would take; no stage is done."""
    device = device or default_device()
    plan = Plan(recipe, None if data is None else Path(data), device)
    stages = plan_stages(plan)[2]
    _check_folder(Path(folder))
    workers = workers or default_workers(device)
    return estimate_run(plan, stages, Path(folder), workers, strict=True)


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
    """A run's folder is new, empty, or a run's of this format: nobody else's files are touched."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise WriteError(f"{folder} is a file; name a folder for the run")
    present = {path.name for path in folder.iterdir()}
    if present and not present & {STAGES, ".lock", STATE}:
        raise WriteError(f"{folder} holds other files and no run; name a new folder")
    refuse_older(folder)


def _finished(folder: Path, key: str) -> bool:
    """Whether this very report is there, whole."""
    if not all((folder / name).is_file() for name in (REPORT, HTML, MARKDOWN)):
        return False
    try:
        state = read_json(folder / STATE)
    except WeftError:
        return False
    return isinstance(state, dict) and state.get("key") == key and is_whole(folder)
