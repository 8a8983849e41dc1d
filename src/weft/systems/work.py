"""How much there is to do in each stage: examples, texts, users, in numbers that are known before
it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from weft.data.domain import Domain, Examples
from weft.data.splits import make_split
from weft.stages.stage import Stage
from weft.systems.common_stages import tuning_grid

TRAINING = ("train_branch", "train_checkpoint", "train_integrator")
LEARNING = ("learn_weights", "learn_merge_weights")
MERGING = ("merge_branches", "merge_weights")
MEASURING = (
    "evaluate_recommender",
    "tune_weights",
    "tune_checkpoints",
    "choose_uniform",
    "choose_sources",
)


@dataclass(frozen=True)
class Census:
    """The sizes of one domain: catalogue items, training examples, users to measure."""

    items: int
    train: int
    validation: int
    test: int

    @classmethod
    def of(cls, domain: Domain, split: Any) -> Census:
        parts = make_split(domain, split)
        return cls(
            len(domain.items), len(parts.train), _users(parts.validation), _users(parts.test)
        )


def _users(examples: Examples) -> int:
    return len(np.unique(examples.user))


@dataclass(frozen=True)
class Work:
    """What a stage does: the examples it trains on, the titles and users it reads, the candidates of
    each user (0: none, or the whole catalogue), how many merges it makes."""

    examples: float = 0
    titles: float = 0
    users: float = 0
    merges: float = 0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.examples + other.examples,
            self.titles + other.titles,
            self.users + other.users,
            self.merges + other.merges,
        )

    def times(self, count: float) -> Work:
        """So many times the same."""
        return Work(
            self.examples * count, self.titles * count, self.users * count, self.merges * count
        )


def work_of(stage: Stage, census: Mapping[str, Census]) -> Work:
    """A stage's work, over domains of known sizes (by name)."""
    name, settings = stage.work.__name__, stage.settings
    domains = [census[one] for one in _domains(stage)]
    if name in TRAINING:
        return _training(settings, domains)
    if name == "evaluate_recommender":
        return _measuring(settings, domains[0], settings["evaluate"], domains[0].test)
    if name in ("tune_weights", "tune_checkpoints"):
        count = sum(parent.startswith("part") for parent in stage.parents)
        one = _measuring(settings, domains[0], settings["validation"], domains[0].validation)
        return (one + Work(merges=1)).times(len(tuning_grid(count)))
    if name == "choose_uniform":
        found = Work(merges=1)
        for domain in domains:
            found += _measuring(settings, domain, settings["validation"], domain.validation)
        return found.times(max(1, len(settings["among"])))
    if name == "choose_sources":
        count = sum(parent.startswith("part") for parent in stage.parents) + (
            "own" in stage.parents
        )
        holdout = settings["holdout"]
        return _measuring(settings, domains[0], holdout, domains[0].validation).times(count)
    if name in LEARNING:
        how = settings.get("collaborative") or settings["adamerging"]
        return Work(examples=how["steps"] * how["batch"])
    return Work(merges=1) if name in MERGING else Work()


def _domains(stage: Stage) -> list[str]:
    """The domains that a stage reads itself."""
    return [
        str(parent.settings["name"])
        for parent in stage.parents.values()
        if parent.work.__name__ == "get_domain"
    ]


def _training(settings: Mapping[str, Any], domains: list[Census]) -> Work:
    train = settings["train"]
    drawn = sum(min(settings["examples"], domain.train) for domain in domains)
    work = Work(examples=drawn * train["epochs"])
    if settings["validation"] is None:
        return work
    steps = work.examples / (train["batch"] * train["accumulate"])
    count = 1 + (steps // train["validate_every"] if train["validate_every"] else 0)
    for domain in domains:
        one = _measuring(settings, domain, settings["validation"], domain.validation)
        work += one.times(count)
    return work


def _measuring(
    settings: Mapping[str, Any], domain: Census, evaluate: Mapping[str, Any], users: int
) -> Work:
    if settings.get("floor") == "popularity":
        return Work()
    users = min(users, evaluate["users"] or users)
    kind = settings["recommender"]["kind"]
    if kind == "bi_encoder":  # a text is read once, whoever it is scored for
        return Work(titles=domain.items, users=users)
    pairs = domain.items if evaluate["full"] else 1 + evaluate["candidates"]["drawn"]
    return Work(titles=users * pairs, users=users)
