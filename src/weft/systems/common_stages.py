"""The stages that every system is made of: get a domain, train, merge, tune, evaluate.

Each function does one stage (see artifacts.stages): everything that decides its outcome is in
its settings or parents.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from weft import __version__
from weft.adapters import Adapter, LoraSettings, from_attached, load_adapter, save_adapter
from weft.adapters.adapter import MANIFEST
from weft.artifacts.atomic import new_directory, read_json, write_json
from weft.backbones.files import write_copy
from weft.data.catalogue import save_catalogue
from weft.data.domain import Domain, Examples
from weft.data.filters import Filters, apply_filters, describe
from weft.data.folder import load_domain, save_domain
from weft.data.mall import mall
from weft.data.splits import Split, make_split, sample_train
from weft.errors import WeftError
from weft.evaluation.candidates import train_counts
from weft.evaluation.evaluate import chosen_examples, evaluate, evaluate_both
from weft.evaluation.protocol import EvaluationSettings
from weft.merging import merge_adapters
from weft.merging.weights import resolve_weights
from weft.recommenders.catalogued import Catalogued
from weft.recommenders.cross_encoder import CrossEncoder, whole_modules
from weft.recommenders.integrator_folder import (
    integrated_recommender,
    is_integrator,
    load_integrator,
)
from weft.recommenders.kinds import AnyRecommender, make_recommender, recommender_settings
from weft.recommenders.popularity import Popularity
from weft.recommenders.prompted import Prompted
from weft.recommenders.protocol import Recommender
from weft.stages.stage import Task, version
from weft.training import TrainSettings, train
from weft.training.batches import seed_of

CHOICE = "choice.json"  # which of several adapters were taken, and what they were measured at
ENDING = "ending.json"  # of a training: [loss, mean ln of batch sizes] of its last steps
CURVE, SUGGESTIONS, WEIGHTS = "curve.json", "suggestions.json", "weights.json"
CHECKPOINT = "checkpoint"  # the folder of full weights in its stage's
INTEGRATOR = "integrator"  # the folder of a trained integrator in its stage's
RESULT, MASKED = "result", "result-masked"  # folders of ranks; the second with `mask_history: both`
COUNTS = "counts.json"  # what happened to prompts and answers of a language model


def domain_in(folder: Path) -> Domain:
    """The domain of a finished `get_domain` stage."""
    return load_domain(folder / "domain")


def get_domain(task: Task) -> None:
    """A domain from its folder, or from the generated mall, filtered."""
    domain, source, removed = open_domain(task.settings)
    save_domain(domain, task.out / "domain", source=source, filters=removed)


def open_domain(settings: Mapping[str, Any]) -> tuple[Domain, dict[str, Any], Any]:
    """(the domain of a `get_domain` stage's settings, its hash before the filters, what they
    removed)."""
    if settings["mall"] is not None:
        malls = _mall(**settings["mall"])
        name = settings["name"]
        if name not in malls:
            raise WeftError(f"the mall has no domain '{name}'; it has {', '.join(malls)}")
        domain = malls[name]
    else:
        domain = load_domain(settings["path"], settings["name"])
    source = {"hash": domain.hash}
    domain, removed = apply_filters(domain, Filters.model_validate(settings["filters"]))
    return domain, source, describe(removed)


@lru_cache(maxsize=1)
def _mall(seed: int, users: int, items: int) -> Mapping[str, Domain]:
    return mall(seed, users, items)


def get_catalogue(task: Task) -> None:
    """A domain's catalogue and nothing else of it."""
    save_catalogue(domain_in(task.parents["domain"]).items, task.out)


def recommender_of(
    task: Task,
    domain: Domain | None,
    adapter: Adapter | None = None,
    *,
    backbone: str | None = None,
    **training: Any,
) -> AnyRecommender:
    """The recommender that a stage's settings describe, for use or for training; `backbone` is a
    checkpoint's folder, if it is not the recipe's."""
    said = task.settings
    return make_recommender(
        backbone or said["backbone"]["name"],
        recommender_settings(said["recommender"]),
        domain.items if domain else None,
        adapter=adapter,
        precision=said["precision"],
        device=said["device"],
        **training,
    )


@version(2)
def train_branch(task: Task) -> None:
    """One LoRA branch on the examples of one or more domains, from the recipe's common start."""
    said = task.settings
    lora = LoraSettings.model_validate(said["lora"])
    recommender = recommender_of(task, None, lora=lora, lora_seed=said["init_seed"])
    start = f"{recommender.backbone.fingerprint} {said['init_seed']}"
    manifest = _train(task, recommender, start)
    adapter = from_attached(recommender.attached, manifest, whole_modules(recommender))
    save_adapter(adapter, task.out / "adapter")


def train_checkpoint(task: Task) -> None:
    """One branch whose every parameter is trained: a checkpoint, with the backbone's files."""
    recommender = recommender_of(task, None, train_all=True)
    manifest = _train(task, recommender, recommender.backbone.fingerprint)
    with new_directory(task.out / CHECKPOINT) as folder:
        write_copy(recommender.backbone.folder, recommender.model, folder)
        write_json(folder / MANIFEST, {"kind": "checkpoint", **manifest})


def _train(task: Task, recommender: AnyRecommender, start: str) -> dict[str, Any]:
    """Train what is trainable on the parents' examples; write the curve, return the manifest."""
    said = task.settings
    domains = [domain_in(folder) for folder in task.parent_list("domain")]
    splits = [make_split(domain, said["split"]) for domain in domains]
    parts = [sample_train(split.train, said["examples"], said["data_seed"]) for split in splits]
    settings = TrainSettings.model_validate(said["train"] | said["aside"])
    if isinstance(recommender, CrossEncoder):
        for split in splits:
            recommender.know(split.train)
    outcome = train(
        recommender,
        parts,
        settings,
        seed=said["seed"],
        start=start,
        checkpoints=task.scratch,
        logs=task.out / "trackers" if settings.trackers else None,
        validate=validator(task, recommender, splits),
        report=lambda step, steps, _: task.say(
            step * settings.batch * settings.accumulate,
            steps * settings.batch * settings.accumulate,
            "examples",
        ),
    )
    write_json(task.out / CURVE, outcome.curve)
    write_json(task.out / ENDING, outcome.ending)
    return {
        "backbone": recommender.backbone.said,
        "domains": [domain.name for domain in domains],
        "data": {domain.name: domain.hash for domain in domains},
        "branch": said["branch"],
        "seed": said["seed"],
        "steps": outcome.kept_step,
        "recommender": said["recommender"],
        "split": said["split"],
        "versions": {"weft": __version__},
    }


def validator(task: Task, recommender: AnyRecommender, splits: list[Split]) -> Any:
    """Mean over the domains of NDCG@10 on some validation users; None if none are asked for."""
    if task.settings["validation"] is None:
        return None
    settings = EvaluationSettings.model_validate(task.settings["validation"])

    def validate() -> float:
        values = []
        for split in splits:
            recommender.use(split.validation.domain.items)
            counts = train_counts(split.train)
            result = evaluate(
                recommender, split.validation, settings, part="validation", counts=counts
            )
            values.append(result.metrics()[metric_at(settings, 10)])
        return float(np.mean(values))

    return validate


def metric_at(settings: EvaluationSettings, k: int) -> str:
    """NDCG@k among candidates, or in the whole catalogue where there are none."""
    return f"ndcg@{k}" if settings.candidates else f"full/ndcg@{k}"


@version(3)
def merge_branches(task: Task) -> None:
    """A static merge of adapters; the weights are the settings' or those of a `weights` parent."""
    said = task.settings
    weights = said["weights"]
    if "weights" in task.parents:
        weights = read_json(task.parents["weights"] / WEIGHTS)["weights"]
    parts = adapters_in(task)
    if isinstance(weights, dict):  # of each module
        weights = weights.__getitem__
    elif weights and isinstance(weights[0], list):  # rules for each part
        labels = [str(number) for number in range(len(parts))]
        weights = resolve_weights(weights, list(parts[0].factors), labels)
    save_adapter(_merged(task, parts, weights), task.out / "adapter")


def adapters_in(task: Task) -> list[Adapter]:
    """The adapters of the parents `part0`, `part1`, …, or those that a parent `choice` chose, in its
    order."""
    folders = task.parent_list("part")
    if "choice" in task.parents:
        folders = [folders[i] for i in read_json(task.parents["choice"] / CHOICE)["chosen"]]
    return [load_adapter(folder / "adapter") for folder in folders]


def _merged(task: Task, parts: list[Adapter], weights: Any) -> Adapter:
    said = task.settings
    method, rank = said.get("method", "linear"), said.get("rank")
    return merge_adapters(parts, method, weights, space=said["space"], rank=rank)


def tuning_grid(count: int) -> list[list[float]]:
    """The weights tried for so many parts: λ of the first out of {0, ¼, ½, ¾, 1, uniform}, the rest
    shared equally."""
    firsts = sorted({0.0, 0.25, 0.5, 0.75, 1.0, 1 / count})
    return [[first] + [(1 - first) / (count - 1)] * (count - 1) for first in firsts]


@version(2)
def tune_weights(task: Task) -> None:
    """The weights of the grid that are best by NDCG@5 of validation users."""
    parts = adapters_in(task)
    tune(task, len(parts), lambda domain, weights: recommender_of(
        task, domain, _merged(task, parts, weights)
    ))  # fmt: skip


def tune(task: Task, count: int, merged: Callable[[Domain, list[float]], AnyRecommender]) -> None:
    """Measure the recommender that `merged` makes of each weights of the grid, by NDCG@5 of
    validation users, and write the best. The test targets are not looked at."""
    said = task.settings
    domain = domain_in(task.parents["domain"])
    split = make_split(domain, said["split"])
    counts = train_counts(split.train)
    settings = EvaluationSettings.model_validate(said["validation"])
    tried: list[dict[str, Any]] = []
    grid = tuning_grid(count)
    for weights in grid:
        scorer = merged(domain, weights)
        users = len(chosen_examples(split.validation, settings))
        report_scoring(task, scorer, users, len(grid), len(tried))
        measured = evaluate(scorer, split.validation, settings, part="validation", counts=counts)
        metrics = measured.metrics()
        tried.append({"weights": weights, "ndcg@5": metrics[metric_at(settings, 5)]})
    best = max(tried, key=lambda one: float(one["ndcg@5"]))
    write_json(task.out / WEIGHTS, {"weights": best["weights"], "tried": tried})


def evaluate_recommender(task: Task) -> None:
    """Ranks of one recommender on one domain's test users, and what it suggests to a few.

    `floor: popularity` needs no weights. An `adapter` parent holds an adapter or an integrator; with
    a `choice` parent it is the best of what was chosen, and without either the zero-shot backbone.
    """
    said = task.settings
    domain = domain_in(task.parents["domain"])
    split = make_split(domain, said["evaluate"]["split"])
    scorer: Recommender
    scorer = Popularity.of(split.train) if said["floor"] == "popularity" else _scorer(task, domain)
    settings = EvaluationSettings.model_validate(said["evaluate"])
    measured = len(chosen_examples(split.test, settings))
    how: dict[str, Any] = {"counts": train_counts(split.train)}
    if isinstance(scorer, Catalogued):
        report_scoring(task, scorer, measured)
    else:
        how["progress"] = lambda done, total: task.say(done, total, "users")
    if settings.mask_history == "both":
        plain, masked = evaluate_both(scorer, split.test, settings, **how)
        masked.save(task.out / MASKED)
    else:
        plain = evaluate(scorer, split.test, settings, **how)
    plain.save(task.out / RESULT)
    if isinstance(scorer, Prompted):
        write_json(task.out / COUNTS, dict(scorer.counts))
    write_json(task.out / SUGGESTIONS, _suggestions(scorer, split.test, said["show_users"]))


def report_scoring(task: Task, scorer: Catalogued, users: int, of: int = 1, done: int = 0) -> None:
    """Say what a recommender reads while it scores so many users, from its first text on; `done`
    of `of` such measurements are over."""
    total, unit = scorer.reading(users)
    read = float(total * done)

    def report(count: float) -> None:
        nonlocal read
        read = min(read + count, total * (done + 1))
        task.say(read, total * of, unit)

    scorer.on_scored = report


def take_best(task: Task) -> None:
    """The result of the first of the chosen, of the parents `result0`, `result1`, …: measured
    already, so no work is done twice."""
    best = task.parent_list("result")[read_json(task.parents["choice"] / CHOICE)["chosen"][0]]
    for name in (RESULT, MASKED):
        if (best / name).is_dir():
            shutil.copytree(best / name, task.out / name)
    write_json(task.out / SUGGESTIONS, {})


def _scorer(task: Task, domain: Domain) -> Recommender:
    folder = task.parents.get("adapter")
    if folder is not None and is_integrator(folder / INTEGRATOR):
        said = task.settings
        return integrated_recommender(
            load_integrator(folder / INTEGRATOR),
            domain.items,
            precision=said["precision"],
            device=said["device"],
        )
    if folder is not None and (folder / CHECKPOINT).is_dir():
        return recommender_of(task, domain, backbone=str(folder / CHECKPOINT))
    if folder is not None:
        return recommender_of(task, domain, load_adapter(folder / "adapter"))
    if "choice" in task.parents:
        return recommender_of(task, domain, adapters_in(task)[0])
    return recommender_of(task, domain, None)


def shown_users(test: Examples, count: int) -> Examples:
    """The users shown in a report, each with their last test target: spread evenly over the test
    users in their order."""
    if not len(test):
        return test
    test = test.take(np.flatnonzero(np.append(test.user[1:] != test.user[:-1], True)))
    rows = np.linspace(0, len(test) - 1, num=min(count, len(test)) + 2)[1:-1].astype(np.int64)
    return test.take(np.unique(rows))


def _suggestions(scorer: Recommender, test: Examples, count: int, k: int = 5) -> dict[str, Any]:
    if not count:
        return {}
    shown = shown_users(test, count)
    ranking = scorer.top_k(shown.histories(), k)
    titles = test.domain.items.titles
    return {
        user: [titles[item] for item in itertools.islice(items, k)]
        for user, items in zip(shown.user_ids(), ranking.items.tolist(), strict=True)
    }


def branch_seed(seed: int, domains: list[str], member: int = 0) -> int:
    """The training seed of a branch: of the run's seed, its set of domains, and which twin it is."""
    return seed_of(seed, "branch", sorted(domains), member)
