"""`weft run`: a recipe in, a report out; what is done already is not done again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
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
from weft.report.model import REPORT, Branch, Curve, DomainReport, RunReport, UserCase
from weft.systems.plan import Plan, default_device
from weft.systems.publish import Measured, publish
from weft.systems.recipe import Recipe
from weft.systems.steps import (
    COUNTS,
    CURVE,
    SUGGESTIONS,
    branch_seed,
    domain_in,
    shown_users,
)
from weft.systems.weaverec import BASELINE, CONTRASTS, FEATURED, WeaveRec

STATE, HTML, MARKDOWN = "run.json", "report.html", "report.md"
REPORT_FORMAT = 2  # raised when reports say more or otherwise: finished runs are then reported anew


def measured_rows(recipe: Recipe, plan: Plan) -> list[Measured]:
    """Every row of every target's table, floors first."""
    out: list[Measured] = []
    woven = WeaveRec(plan, recipe.seed)
    for spec in recipe.domains:
        if not spec.target:
            continue
        target = spec.name
        again = [WeaveRec(plan, seed).again(target) for seed in spec.seeds]
        floor = plan.evaluation(target, "popularity", None, "popularity")
        zero = plan.evaluation(target, "zero-shot", None)
        out.append(Measured(target, "popularity", "most bought first; not learned", None, [floor]))
        out.append(Measured(target, "zero-shot", "the backbone, untrained", None, [zero]))
        out.extend(_ranked_otherwise(recipe, plan, target, "zero-shot", None))
        for row, (about, adapter) in woven.rows(target).items():
            repeated = [rows[row][1] for rows in again if row in rows]
            seeds = spec.seeds if repeated else ()
            evaluations = [
                plan.evaluation(target, row, stage, seed=seed)
                for seed, stage in zip((recipe.seed, *seeds), [adapter, *repeated], strict=True)
            ]
            published = row in (BASELINE, FEATURED)
            out.append(Measured(target, row, about, adapter, evaluations, seeds, published))
            if row == FEATURED:
                out.extend(_ranked_otherwise(recipe, plan, target, row, adapter))
    return out


def _ranked_otherwise(
    recipe: Recipe, plan: Plan, target: str, row: str, adapter: Stage | None
) -> Iterator[Measured]:
    """A row for each of the recipe's `rankers`: the same weights, asked in another way.

    One of another kind asks the backbone only: adapters were trained on the recipe's own prompt.
    """
    for changes in recipe.rankers:
        scorer = recipe.ranker(changes)
        if adapter is not None and scorer.kind != recipe.recommender.kind:
            continue
        said = ", ".join(
            k if v is True else str(v) if k in ("kind", "ranker") else f"{k} {v}"
            for k, v in changes.items()
        )
        stage = plan.evaluation(target, f"{row} ({said})", adapter, scorer=scorer)
        yield Measured(
            target, f"{row} ({said})", f"the same weights, asked {said}", adapter, [stage]
        )


def run(
    recipe: Recipe,
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
    measured = measured_rows(recipe, plan)
    stages = [stage for one in measured for stage in one.evaluations]
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
    recipe: Recipe,
    measured: list[Measured],
    plan: Plan,
    run_folder: Path,
    timings: dict[str, float],
) -> RunReport:
    """The report out of finished stages."""
    targets = list(dict.fromkeys(one.target for one in measured))
    domains = {name: domain_in(plan.domains[name].folder(run_folder)) for name in targets}
    trained = _trained(measured, run_folder)
    return RunReport(
        title=recipe.name or "weft run",
        system="WeaveRec",
        summary=_summary(recipe, domains),
        featured=FEATURED,
        domains=[_table(recipe, measured, target, run_folder) for target in targets],
        learning_curves={label: _curve(stage, run_folder) for label, stage in trained.items()},
        branches={label: _branch(stage, recipe) for label, stage in trained.items()},
        validation_metric="NDCG@10 "
        + ("among candidates" if recipe.evaluate.candidates else "of all"),
        users=[
            case
            for place, (target, domain) in enumerate(domains.items())
            for case in _users(recipe, measured, target, domain, run_folder, place, len(domains))
        ],
        notes=[
            *recipe.notes,
            *_collapsed(measured, trained, run_folder),
            *_counted(measured, run_folder),
        ],
        timings=timings,
    )


def _summary(recipe: Recipe, domains: dict[str, Domain]) -> str:
    branches = recipe.branches
    seeds = {s.name: len(s.seeds) + 1 for s in recipe.domains if s.seeds}
    training = (
        f"{branches.examples:,} examples per domain × {branches.epochs} epoch{'s' * (branches.epochs > 1)}, batch"
        f" {branches.batch}, LoRA rank {branches.lora.rank}"
    )
    words = [
        f"{len(recipe.domains)} domains, {len(domains)} of them targets.",
        f"Backbone {recipe.backbone}; {training}; seed {recipe.seed}.",
    ]
    for name, count in seeds.items():
        words.append(f"{name} is run with {count} seeds.")
    if recipe.mall is not None:
        words.append("The data are generated (synthetic).")
    return " ".join(words)


def _table(recipe: Recipe, measured: list[Measured], target: str, run_folder: Path) -> DomainReport:
    rows = [one for one in measured if one.target == target]
    results: dict[str, Result | list[Result]] = {}
    for one in rows:
        loaded = [Result.load(s.folder(run_folder) / "result") for s in one.evaluations]
        results[one.row] = loaded[0] if len(loaded) == 1 else loaded
    return domain_report(
        results,
        BASELINE,
        about={one.row: one.about for one in rows},
        headline=recipe.headline,
        contrasts=CONTRASTS,
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


def _collapsed(
    measured: list[Measured], trained: Mapping[str, Stage], run_folder: Path
) -> Iterator[str]:
    """A sentence for every branch that ended no better than guessing among its batch."""
    for label, stage in trained.items():
        if stage.settings["recommender"]["kind"] != "bi_encoder":
            continue  # others don't guess among a batch
        batch = stage.settings["train"]["batch"]
        last = [loss for _, loss, _ in _curve(stage, run_folder) if loss is not None][-5:]
        end, guessing = float(np.mean(last or [0.0])), float(np.log(batch))
        if end < 0.99 * guessing:
            continue
        rows = [
            f"{one.row} on {one.target}"
            for one in measured
            if any(stage.key in {s.key for s in reached([e])} for e in one.evaluations)
        ]
        yield (
            f"The branch '{label.removeprefix('train ')}' collapsed: its loss ended at "
            f"{end:.2f}, that of guessing among a batch of {batch} ({guessing:.2f}). "
            f"It is part of: {', '.join(rows)}; read these with that in mind."
        )


def _counted(measured: list[Measured], run_folder: Path) -> Iterator[str]:
    """What language models' prompts and answers came to, where it is worth a sentence."""
    for one in measured:
        path = one.evaluations[0].folder(run_folder) / COUNTS
        counts = read_json(path) if path.is_file() else {}
        where = f"{one.row} on {one.target}"
        if (answers := counts.get("answers", 0)) > 0:
            lost, written = counts["answers without a candidate"], counts["titles written"]
            wrong = counts["titles that are no candidate"]
            yield (
                f"{where}: {lost / answers:.1%} of {answers:,} answers named no candidate, and "
                f"{wrong / max(1, written):.1%} of {written:,} titles written were none."
            )
        elif counts.get("prompts with a history cut", 0) and one.row == FEATURED:
            cut = counts["prompts with a history cut"] / counts["prompts"]
            yield f"{where}: {cut:.1%} of the histories were cut to fit the prompt."


def _curve(stage: Stage, run_folder: Path) -> Curve:
    points = read_json(stage.folder(run_folder) / CURVE)
    return [(int(step), loss, value) for step, loss, value in points]


def _branch(stage: Stage, recipe: Recipe) -> Branch:
    """What kind of branch it is; target-only and hybrids of the recipe's own seed are shown."""
    domains = [parent.settings["name"] for parent in stage.parents.values()]
    seeds = {recipe.seed, *(seed for spec in recipe.domains for seed in spec.seeds)}
    if stage.settings["seed"] not in {branch_seed(seed, domains) for seed in seeds}:
        return Branch(domains=domains, kind="soup's twins", shown=False)
    if stage.settings["train"]["epochs"] > recipe.branches.epochs:
        kind = f"{BASELINE}, longer"
    else:
        kind = {1: BASELINE, 2: "hybrid"}.get(len(domains), "all-data")
    if stage.settings["seed"] != branch_seed(recipe.seed, domains):
        return Branch(domains=domains, kind=f"{kind}, more seeds", shown=False)
    return Branch(domains=domains, kind=kind, shown=kind in (BASELINE, "hybrid"))


def _users(
    recipe: Recipe,
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
        if one.target == target and one.row in (BASELINE, FEATURED)
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
