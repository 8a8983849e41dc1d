"""The stages of merging checkpoints: catalogues, uniform and learned weights, the merged model.

`learn_weights` gets checkpoints and catalogues; no stage above it that holds an interaction is a
parent of it, unless a recipe asks for a control that says so.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from weft.artifacts.atomic import read_json, write_json
from weft.backbones.load import find_backbone
from weft.data.catalogue import load_catalogue
from weft.data.domain import Domain
from weft.data.source import checked
from weft.data.splits import make_split, sample_train
from weft.evaluation.candidates import train_counts
from weft.evaluation.evaluate import chosen_examples, evaluate
from weft.evaluation.protocol import EvaluationSettings
from weft.learning.collaborative import CollaborativeSettings
from weft.learning.probes import load_probes, save_probes, sequences
from weft.learning.sources import (
    learn_collaborative,
    learn_from_sequences,
    open_sources,
)
from weft.merging.merge import plan_merge, run_merge
from weft.merging.methods import make_method
from weft.recommenders.bi_encoder import BiEncoderSettings
from weft.recommenders.kinds import AnyRecommender
from weft.stages.stage import Task
from weft.systems.common_stages import (
    CHECKPOINT,
    CHOICE,
    WEIGHTS,
    adapters_in,
    domain_in,
    metric_at,
    recommender_of,
    report_scoring,
    tune,
)

COUNTED = "counts.npy"  # how often each item of a catalogue was bought in training
VECTORS = "vectors"  # item vectors of checkpoints, shared by a run's stages


def count_items(task: Task) -> None:
    """How often each item was bought in training: for `choose: popular` alone."""
    domain = domain_in(task.parents["domain"])
    split = make_split(domain, task.settings["split"])
    np.save(task.out / COUNTED, np.asarray(train_counts(split.train)))


def draw_sequences(task: Task) -> None:
    """As many real training sequences as the catalogue has items, or all: a control."""
    said = task.settings
    domain = domain_in(task.parents["domain"])
    train = make_split(domain, said["split"]).train
    drawn = sample_train(train, len(domain.items), said["seed"])
    save_probes(sequences(drawn.histories(), drawn.targets), task.out)


def merge_weights(task: Task) -> None:
    """A static merge of the parents' checkpoints, in float32: what `weft merge` makes of the
    recipe. Weights are the settings' or those of a `weights` parent."""
    weights = task.settings["weights"]
    if "weights" in task.parents:
        weights = read_json(task.parents["weights"] / WEIGHTS)["weights"]
    _merge(task, weights, task.out / CHECKPOINT)


def _merge(task: Task, weights: Any, out: Path) -> None:
    parts = [folder / CHECKPOINT for folder in task.parent_list("part")]
    said = task.settings
    method = make_method(said["method"])
    needed = method.needs_base
    base = str(find_backbone(said["backbone"]["name"])) if needed else None
    job = plan_merge(parts, method, weights, base=base, dtype="float32", labels=said["names"])
    run_merge(job, out)


def choose_uniform(task: Task) -> None:
    """The weight, the same for all parts, that is best over validation users of all domains: mean
    over the domains of NDCG@10. The test targets are not looked at."""
    said = task.settings
    count = len(task.parent_list("part"))
    own = make_method(said["method"]).default_weights(count)
    grid = [[float(value)] * count for value in said["among"]] or [own]
    settings = EvaluationSettings.model_validate(said["validation"])
    domains = [domain_in(folder) for folder in task.parent_list("domain")]
    splits = [make_split(domain, said["split"]) for domain in domains]
    tried: list[dict[str, Any]] = []
    for weights in grid:
        folder = task.scratch / CHECKPOINT
        shutil.rmtree(folder, ignore_errors=True)
        _merge(task, weights, folder)
        values: list[float] = []
        for domain, split in zip(domains, splits, strict=True):
            scorer = recommender_of(task, domain, backbone=str(folder))
            users = len(chosen_examples(split.validation, settings))
            over = len(tried) * len(domains) + len(values)
            report_scoring(task, scorer, users, len(grid) * len(domains), over)
            measured = evaluate(
                scorer,
                split.validation,
                settings,
                part="validation",
                counts=train_counts(split.train),
            )
            values.append(measured.metrics()[metric_at(settings, 10)])
        tried.append({"weights": weights, "ndcg@10": float(np.mean(values)), "domains": values})
    best = max(tried, key=lambda one: float(one["ndcg@10"]))
    write_json(task.out / WEIGHTS, best | {"tried": tried})


def tune_checkpoints(task: Task) -> None:
    """The weights of the grid, of merged checkpoints, that are best by NDCG@5 of validation users."""

    def merged(domain: Domain, weights: list[float]) -> AnyRecommender:
        folder = task.scratch / CHECKPOINT
        shutil.rmtree(folder, ignore_errors=True)
        _merge(task, weights, folder)
        return recommender_of(task, domain, backbone=str(folder))

    tune(task, len(task.parent_list("part")), merged)


def choose_merge(task: Task) -> None:
    """The best of the parents `choice0`, `choice1`, … by what they reached on validation users."""
    reached = [read_json(one / WEIGHTS)["ndcg@10"] for one in task.parent_list("choice")]
    write_json(task.out / CHOICE, {"chosen": [int(np.argmax(reached))], "ndcg@10": reached})


def learn_weights(task: Task) -> None:
    """Merging weights learned from catalogues and checkpoints or adapters (weft.merging.learning).

    Parents are `part0`, … and `catalogue0`, …; only controls have `counts0`, … or `probes0`, ….
    """
    said = task.settings
    folders = task.parent_list("part")
    backbone = said["backbone"]["name"]
    parts: list[Any] = [folder / CHECKPOINT for folder in folders]
    where: dict[str, Any] = {}
    if parts[0].is_dir():
        where["base"] = str(find_backbone(backbone))
    else:
        parts, where["backbone"] = adapters_in(task), backbone
    how = {
        "labels": said["names"],
        "precision": said["precision"],
        "device": said["device"],
        "cache": task.scratch.parent / VECTORS,
        **where,
    }
    catalogues = [load_catalogue(folder) for folder in task.parent_list("catalogue")]
    recommender = checked(BiEncoderSettings, said["recommender"])
    settings = CollaborativeSettings.model_validate(said["collaborative"])
    on_the_way: dict[str, Any] = {
        "checkpoints": task.scratch,
        "report": lambda step, steps, _: task.say(step, steps, "steps"),
    }
    counts = [np.load(folder / COUNTED) for folder in task.parent_list("counts")]
    probes = [load_probes(folder) for folder in task.parent_list("probes")]
    if probes:
        sources = open_sources(parts, recommender, settings, **how)
        learned = learn_from_sequences(
            sources, catalogues, probes, settings, said["seed"], **on_the_way
        )
    else:
        learned = learn_collaborative(
            parts, catalogues, recommender, settings, seed=said["seed"],
            popularity=counts or None, **how, **on_the_way,
        )  # fmt: skip
    write_json(task.out / WEIGHTS, learned.said())
