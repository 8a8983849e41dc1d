"""Sentences about trainings and prompts that a study's numbers don't say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from weft.systems.rows import StudyRow
from weft.systems.stages.training import TrainingStage
from weft.training.ending import Ending, judge


def ending_of(stage: TrainingStage, run: Path) -> tuple[Ending, int] | None:
    """How a branch ended, and among how many it would have guessed; none for recommenders that
    don't guess."""
    recommender = stage.scoring.recommender
    among = recommender.guesses_among(stage.train.batch)
    if among is None:
        return None
    points = stage.ending(run)
    in_batch = recommender.guesses_in_batch
    guessing = [size if in_batch else math.log(among) for _, size in points]
    return judge([loss for loss, _ in points], guessing), among


def collapsed(trained: Iterable[TrainingStage], run: Path) -> Iterator[str]:
    """A sentence for every branch that ended no better than guessing among its batch."""
    for stage in trained:
        outcome = ending_of(stage, run)
        if outcome is None or outcome[0].outcome != "collapsed":
            continue
        ending, among = outcome
        in_batch = stage.scoring.recommender.guesses_in_batch
        of = f"a batch of {among}" if in_batch else f"{among} candidates"
        yield (
            f"The branch '{stage.label.removeprefix('train ')}' collapsed: its loss ended at "
            f"{ending.loss:.2f} (mean of the last {ending.steps} steps, standard error "
            f"{ending.spread:.2f}), that of guessing among {of} ({ending.guessing:.2f})."
        )


def unjudged(trained: Iterable[TrainingStage], run: Path) -> Iterator[str]:
    """A sentence about the branches that are too short to say whether they learned."""
    endings = {stage.label: ending_of(stage, run) for stage in trained}
    short = [
        label.removeprefix("train ")
        for label, outcome in endings.items()
        if outcome is not None and outcome[0].outcome == "too short to judge"
    ]
    if short:
        several = len(short) > 1
        yield (
            f"Too short to judge whether {'they' if several else 'it'} learned: the branch"
            f"{'es' * several} {', '.join(repr(name) for name in short)}."
        )


def answer_notes(rows: Iterable[StudyRow], featured: str, run: Path) -> Iterator[str]:
    """What language models' prompts and answers came to, where it is worth a sentence."""
    for one in rows:
        counts: Mapping[str, int] = one.evaluations[0].answer_counts(run)
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
