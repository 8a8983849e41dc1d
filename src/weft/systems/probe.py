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
from weft.backbones.load import find_backbone
from weft.data.domain import Domain, Examples
from weft.data.splits import make_split, sample_train
from weft.errors import WeftError
from weft.evaluation.candidates import CandidateSettings, draw_candidates, train_counts
from weft.recommenders.bi_encoder import BiEncoder
from weft.recommenders.cross_encoder import CrossEncoder
from weft.recommenders.kinds import AnyRecommender, make_recommender
from weft.stages.stage import library_versions
from weft.systems.pace import Rates
from weft.systems.plan import Plan

LARGEST = 500 << 20  # bytes of a backbone's weights that are loaded to be timed
ENOUGH = 1.0  # seconds of each measurement, about
PACE = "pace.json"


def measure_rates(
    plan: Plan, domain: Callable[[], Domain], cache: Path | None = None, *, strict: bool = False
) -> Rates:
    """Seconds of one core for an example, a title, a user, by a few steps on a domain; guesses where
    nothing can be timed in a moment. With `cache`, a folder, they are measured there once. What the
    run could not do either (a text column that isn't there) is a `WeftError` if `strict`."""
    if plan.device != "cpu" or _size(plan) > LARGEST:
        return Rates()
    versions = {k: v for k, v in library_versions().items() if k != "weft"}
    branches = plan.recipe.branches
    how = [branches.parameters, branches.lora.model_dump(mode="json"), branches.batch]
    key = hash_json([plan.scoring, how, versions])
    known = _known(cache, key)
    if known is not None:
        return known
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as workers do
    try:
        rates = _measured(plan, domain())
    except WeftError:
        if strict:
            raise
        return Rates()  # the stage that needs it says so
    finally:
        torch.set_num_threads(threads)
    if cache is not None:
        write_json(cache / PACE, {"key": key, **vars(rates)})
    return rates


def _known(cache: Path | None, key: str) -> Rates | None:
    if cache is None or not (cache / PACE).is_file():
        return None
    try:
        found = read_json(cache / PACE)
        return (
            Rates(**{k: v for k, v in found.items() if k != "key"}) if found["key"] == key else None
        )
    except (WeftError, TypeError, KeyError, AttributeError):
        return None


def _size(plan: Plan) -> int:
    files = find_backbone(plan.recipe.backbone).glob("*.safetensors")
    return sum(file.stat().st_size for file in files)


def _measured(plan: Plan, domain: Domain) -> Rates:
    recipe = plan.recipe
    split = make_split(domain, recipe.evaluate.split)
    lora = recipe.branches.lora if recipe.branches.parameters == "lora" else None
    recommender = make_recommender(
        recipe.backbone, recipe.recommender, domain.items, lora=lora,
        train_all=lora is None, precision=recipe.precision, device=plan.device,
    )  # fmt: skip
    if isinstance(recommender, CrossEncoder):
        recommender.know(split.train)
    examples = sample_train(split.train, 256, 0)
    example = _example(recommender, examples, recipe.branches.batch)
    title, user = _reading(recommender, split.test, train_counts(split.train))
    return Rates(example=example, title=title, user=user, measured=True)


def _example(recommender: AnyRecommender, examples: Examples, batch: int) -> float:
    """Seconds of one example of a training step, forward and backward."""
    if not len(examples):
        return Rates().example
    parameters = [p for p in recommender.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.0)
    recommender.model.train()

    # As in training, batches are of examples of about one length: of each quarter of the lengths.
    order = np.argsort(recommender.lengths(examples), kind="stable")
    size = max(2, min(batch, 8)) if isinstance(recommender, BiEncoder) else 1

    def step(at: int) -> None:
        start = len(order) * (1 + 2 * (at % 4)) // 8
        rows = order[(start + np.arange(size) - size // 2) % len(order)]
        recommender.loss(examples.take(rows)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step(0)  # the first one makes room
    return _each(step, 4) / size


def _reading(recommender: AnyRecommender, test: Examples, counts: Any) -> tuple[float, float]:
    """(seconds of a title, seconds of a user); pairs of user and title where both are read together."""
    recommender.model.eval()
    if not len(test):
        return Rates().title, Rates().user
    some = test.take(np.arange(min(32, len(test))))
    histories = some.histories()
    if isinstance(recommender, BiEncoder):
        tokens = recommender.tokens(test.domain.items)
        items = np.arange(min(64, len(tokens)))
        titles = recommender.assemble_items(tokens, items)
        users = recommender.assemble_histories(tokens, histories)
        title = _each(lambda _: recommender.encode(titles)) / len(items)
        return title, _each(lambda _: recommender.encode(users)) / len(histories)
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
