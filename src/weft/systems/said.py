"""Sentences about a run that its numbers don't say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from weft.artifacts.atomic import read_json
from weft.artifacts.stages import Stage, reached
from weft.report.model import Curve
from weft.systems.publish import Measured
from weft.systems.steps import COUNTS, CURVE


def curve_of(stage: Stage, run_folder: Path) -> Curve:
    points = read_json(stage.folder(run_folder) / CURVE)
    return [(int(step), loss, value) for step, loss, value in points]


def collapsed(
    measured: list[Measured], trained: Mapping[str, Stage], run_folder: Path
) -> Iterator[str]:
    """A sentence for every branch that ended no better than guessing among its batch."""
    for label, stage in trained.items():
        said = stage.settings["recommender"]
        if said["kind"] == "bi_encoder":
            among = stage.settings["train"]["batch"]
            of = f"a batch of {among}"
        elif said["kind"] == "cross_encoder":
            among = 1 + said["drawn"]
            of = f"{among} candidates"
        else:
            continue  # others don't guess among so many
        last = [loss for _, loss, _ in curve_of(stage, run_folder) if loss is not None][-5:]
        end, guessing = float(np.mean(last or [0.0])), float(np.log(among))
        if end < 0.99 * guessing:
            continue
        rows = [
            f"{one.row} on {one.target}"
            for one in measured
            if any(stage.key in {s.key for s in reached([e])} for e in one.evaluations)
        ]
        yield (
            f"The branch '{label.removeprefix('train ')}' collapsed: its loss ended at "
            f"{end:.2f}, that of guessing among {of} ({guessing:.2f}). "
            f"It is part of: {', '.join(rows)}; read these with that in mind."
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
