"""Sentences about a run that its numbers don't say."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from weft.artifacts.atomic import read_json
from weft.report.model import Curve
from weft.stages.stage import Stage
from weft.systems.common_stages import COUNTS, CURVE, ENDING
from weft.systems.measured import Measured
from weft.training.ending import Ending, judge, last_steps


def curve_of(stage: Stage, run_folder: Path) -> Curve:
    points = read_json(stage.folder(run_folder) / CURVE)
    return [(int(step), loss, value) for step, loss, value in points]


def ending_of(stage: Stage, run_folder: Path) -> tuple[Ending, int] | None:
    """How a branch ended, and among how many it would have guessed; none for recommenders that
    don't guess. Branches that an older weft trained have only their curves' last points."""
    recommender = stage.settings["recommender"]
    if recommender["kind"] == "bi_encoder":
        among = int(stage.settings["train"]["batch"])
    elif recommender["kind"] == "cross_encoder":
        among = 1 + int(recommender["drawn"])
    else:
        return None
    path = stage.folder(run_folder) / ENDING
    if path.is_file():
        points = read_json(path)
        losses = [loss for loss, _ in points]
        in_batch = recommender["kind"] == "bi_encoder"
        guessing = [size if in_batch else math.log(among) for _, size in points]
    else:
        losses = [loss for _, loss, _ in curve_of(stage, run_folder) if loss is not None]
        losses = losses[-last_steps(len(losses)) :]
        guessing = [math.log(among)] * len(losses)
    return judge(losses, guessing), among


def collapsed(trained: Mapping[str, Stage], run_folder: Path) -> Iterator[str]:
    """A sentence for every branch that ended no better than guessing among its batch."""
    for label, stage in trained.items():
        found = ending_of(stage, run_folder)
        if found is None or found[0].outcome != "collapsed":
            continue
        ending, among = found
        kind = stage.settings["recommender"]["kind"]
        of = f"a batch of {among}" if kind == "bi_encoder" else f"{among} candidates"
        yield (
            f"The branch '{label.removeprefix('train ')}' collapsed: its loss ended at "
            f"{ending.loss:.2f} (mean of the last {ending.steps} steps, standard error "
            f"{ending.spread:.2f}), that of guessing among {of} ({ending.guessing:.2f})."
        )


def unjudged(trained: Mapping[str, Stage], run_folder: Path) -> Iterator[str]:
    """A sentence about the branches that are too short to say whether they learned."""
    endings = {label: ending_of(stage, run_folder) for label, stage in trained.items()}
    short = [
        label.removeprefix("train ")
        for label, found in endings.items()
        if found is not None and found[0].outcome == "too short to judge"
    ]
    if short:
        several = len(short) > 1
        yield (
            f"Too short to judge whether {'they' if several else 'it'} learned: the branch"
            f"{'es' * several} {', '.join(repr(name) for name in short)}."
        )


def counted(measured: list[Measured], featured: str, run_folder: Path) -> Iterator[str]:
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
        elif counts.get("prompts with a history cut", 0) and one.row == featured:
            cut = counts["prompts with a history cut"] / counts["prompts"]
            yield f"{where}: {cut:.1%} of the histories were cut to fit the prompt."
