"""A few steps of a run's own recommender, timed before the run starts: what its stages will cost.

Only on a CPU, and for backbones that load in a moment; elsewhere stages say their pace as they end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from weft.artifacts.atomic import read_json, write_json
from weft.artifacts.hashing import hash_json
from weft.artifacts.versions import library_versions
from weft.backbones.load import find_backbone
from weft.data.domain import Domain, Examples
from weft.data.splits import make_split, sample_train
from weft.errors import WeftError
from weft.evaluation.candidates import CandidateSettings, draw_candidates, train_counts
from weft.recommenders.contract import Recommender
from weft.recommenders.kinds import new_recommender
from weft.systems.plan import Plan
from weft.systems.timing import Speeds

LARGEST = 500 << 20  # bytes of a backbone's weights that are loaded to be timed
ENOUGH = 1.0  # seconds of each measurement, about
PACE = "pace.json"


def measure_speeds(
    plan: Plan, domain: Callable[[], Domain], cache: Path | None = None, *, strict: bool = False
) -> Speeds:
    """Seconds of one core for an example, a title, a user, by a few steps on a domain; guesses where
    nothing can be timed in a moment. With `cache`, a folder, they are measured there once. What the
    run could not do either (a text column that isn't there) is a `WeftError` if `strict`."""
    if plan.device != "cpu" or _size(plan) > LARGEST:
        return Speeds()
    versions = {k: v for k, v in library_versions().items() if k != "weft"}
    branches = plan.recipe.branches
    training = [branches.parameters, branches.lora.model_dump(mode="json"), branches.batch]
    key = hash_json([plan.scoring.model_dump(mode="json"), training, versions])
    cached = _cached(cache, key)
    if cached is not None:
        return cached
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as workers do
    try:
        speeds = _measured(plan, domain())
    except WeftError:
        if strict:
            raise
        return Speeds()  # the stage that needs it says so
    finally:
        torch.set_num_threads(threads)
    if cache is not None:
        write_json(cache / PACE, {"key": key, **vars(speeds)})
    return speeds


def _cached(cache: Path | None, key: str) -> Speeds | None:
    if cache is None or not (cache / PACE).is_file():
        return None
    try:
        values = read_json(cache / PACE)
        same = values.pop("key") == key
        return Speeds(**values) if same else None
    except (WeftError, TypeError, KeyError, AttributeError):
        return None


def _size(plan: Plan) -> int:
    files = find_backbone(plan.recipe.backbone).glob("*.safetensors")
    return sum(file.stat().st_size for file in files)


def _measured(plan: Plan, domain: Domain) -> Speeds:
    recipe = plan.recipe
    split = make_split(domain, recipe.evaluate.split)
    lora = recipe.branches.lora if recipe.branches.parameters == "lora" else None
    recommender = new_recommender(
        recipe.backbone, recipe.recommender, domain.items, lora=lora,
        precision=recipe.precision, device=plan.device,
    )  # fmt: skip
    recommender.prepare([split.train])
    examples = sample_train(split.train, 256, 0)
    example = _example(recommender, examples, recipe.branches.batch)
    title, user = _reading(recommender, split.test, train_counts(split.train))
    return Speeds(example=example, title=title, user=user, measured=True)


def _example(recommender: Recommender, examples: Examples, batch: int) -> float:
    """Seconds of one example of a training step, forward and backward."""
    model = recommender.model
    if not len(examples) or model is None:
        return Speeds().example
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.0)
    model.train()

    # As in training, batches are of examples of about one length: of each quarter of the lengths.
    order = np.argsort(recommender.lengths(examples), kind="stable")
    size = max(2, min(batch, 8)) if recommender.settings.guesses_in_batch else 1

    def step(at: int) -> None:
        start = len(order) * (1 + 2 * (at % 4)) // 8
        rows = order[(start + np.arange(size) - size // 2) % len(order)]
        recommender.loss(examples.take(rows)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step(0)  # the first one makes room
    return _each(step, 4) / size


def _reading(recommender: Recommender, test: Examples, counts: Any) -> tuple[float, float]:
    """(seconds of a title, seconds of a user); pairs of user and title where both are read together."""
    if recommender.model is not None:
        recommender.model.eval()
    if not len(test):
        return Speeds().title, Speeds().user
    some = test.take(np.arange(min(32, len(test))))
    histories = some.histories()
    items = np.arange(min(64, len(test.domain.items)))
    if (alone := recommender.reading_alone(items, histories)) is not None:
        titles, users = alone
        return _each(lambda _: titles()) / len(items), _each(lambda _: users()) / len(histories)
    drawn = draw_candidates(
        some, CandidateSettings(drawn=min(9, len(test.domain.items) // 3)), 0, counts
    )

    def one(at: int) -> None:
        place = at % len(histories)
        recommender.score(histories[place : place + 1], drawn[place : place + 1])

    return _each(one) / drawn.shape[1], 0.0


def _each(work: Callable[[int], object], round_: int = 1) -> float:
    """Seconds of one call, over whole rounds of calls for about a second: processor time, as other
    programs may run."""
    began, cpu, count = time.monotonic(), time.process_time(), 0
    while not count or (time.monotonic() - began < ENOUGH and count < 50):
        for _ in range(round_):
            work(count)
            count += 1
    return (time.process_time() - cpu) / count
