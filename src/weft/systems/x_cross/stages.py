"""The stages of integration: choosing sources, training an integrator on the target."""

from __future__ import annotations

from typing import Any

import numpy as np

from weft import __version__
from weft.adapters import load_adapter
from weft.artifacts.atomic import write_json
from weft.backbones import load_backbone
from weft.data.source import checked
from weft.data.splits import make_split, sample_train
from weft.evaluation.candidates import train_counts
from weft.evaluation.evaluate import chosen_examples as chosen_of
from weft.evaluation.evaluate import evaluate
from weft.evaluation.protocol import EvaluationSettings
from weft.integration import integrator_settings
from weft.recommenders.cross_encoder import CrossEncoderSettings
from weft.recommenders.integrated import Integrated
from weft.recommenders.integrator_folder import TrainedIntegrator, write_integrator
from weft.stages.stage import Task
from weft.systems.common_stages import (
    CHOICE,
    CURVE,
    ENDING,
    INTEGRATOR,
    adapters_in,
    domain_in,
    recommender_of,
    report_scoring,
    validator,
)
from weft.training import TrainSettings, train

PROMPTS = "prompts.json"  # how long the training prompts are
BY = "mrr@10"  # what sources are chosen by


def choose_sources(task: Task) -> None:
    """Every adapter of the parents on the target's hold-out, untrained on it; the best are chosen.

    The hold-out are validation users: test targets are not looked at. The target's `own` adapter is
    measured beside them and not chosen.
    """
    said = task.settings
    domain = domain_in(task.parents["domain"])
    split = make_split(domain, said["split"])
    settings = EvaluationSettings.model_validate(said["holdout"])
    adapters, names = adapters_in(task), list(said["names"])
    if "own" in task.parents:
        adapters.append(load_adapter(task.parents["own"] / "adapter"))
        names.append(said["own"])
    found: list[dict[str, Any]] = []
    measured_users = len(chosen_of(split.validation, settings))
    for place, (name, adapter) in enumerate(zip(names, adapters, strict=True)):
        scorer = recommender_of(task, domain, adapter)
        report_scoring(task, scorer, measured_users, len(adapters), place)
        measured = evaluate(
            scorer, split.validation, settings, part="validation", counts=train_counts(split.train)
        )
        found.append({"source": name, **measured.metrics()})
    order = sorted(range(len(said["names"])), key=lambda i: (-found[i][BY], i))
    chosen = order[: said["count"]]
    users = min(settings.users or len(split.validation), len(split.validation))
    write_json(task.out / CHOICE, {"chosen": chosen, "by": BY, "users": users, "measured": found})


def train_integrator(task: Task) -> None:
    """One integrator over the chosen adapters, trained on examples of the target."""
    said = task.settings
    domain = domain_in(task.parents["domain"])
    split = make_split(domain, said["split"])
    examples = sample_train(split.train, said["examples"], said["data_seed"])
    adapters = adapters_in(task)
    how = integrator_settings(said["integrator"])
    if how.kind == "head":
        adapters = adapters[:1]
    recommender = Integrated(
        load_backbone(said["backbone"]["name"], precision=said["precision"], device=said["device"]),
        checked(CrossEncoderSettings, said["recommender"]),
        adapters,
        how,
        seed=said["seed"],
        activations=task.scratch.parent / "activations" if said["aside"]["activations"] else None,
        budget=said["aside"]["activations"],
    )
    recommender.know(split.train)
    lengths = recommender.training_rows(examples).lengths
    prompts = {"mean": float(np.mean(lengths)), "sd": float(np.std(lengths))}
    write_json(task.out / PROMPTS, {"prompts": len(lengths), **prompts})
    aside = {k: v for k, v in said["aside"].items() if k != "activations"}
    settings = TrainSettings.model_validate(said["train"] | aside)
    outcome = train(
        recommender,
        [examples],
        settings,
        seed=said["seed"],
        start=f"{recommender.backbone.fingerprint} {[one.weights_hash for one in adapters]}",
        checkpoints=task.scratch,
        logs=task.out / "trackers" if settings.trackers else None,
        validate=validator(task, recommender, [split]),
        report=lambda step, steps, _: task.say(
            step * settings.batch, steps * settings.batch, "examples"
        ),
    )
    manifest = {
        "backbone": recommender.backbone.said,
        "recommender": said["recommender"],
        "best": 0,
        "domains": [domain.name],
        "data": {domain.name: domain.hash},
        "examples": len(examples),
        "split": said["split"],
        "steps": outcome.kept_step,
        "seed": said["seed"],
        "trained": recommender.trainable(),
        "versions": {"weft": __version__},
    }
    (task.out / INTEGRATOR).mkdir()
    trained = TrainedIntegrator(how, recommender.trained(), adapters, manifest)
    write_integrator(trained, task.out / INTEGRATOR)
    write_json(task.out / CURVE, outcome.curve)
    write_json(task.out / ENDING, outcome.ending)
