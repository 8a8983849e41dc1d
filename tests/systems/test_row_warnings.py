"""What a report says of a row beside its numbers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))

from worlds import domain, result

from weft.adapters import LoraSettings
from weft.artifacts.atomic import write_json
from weft.data.splits import LeaveOneOut
from weft.evaluation.protocol import EvaluationSettings
from weft.recommenders.text.bi_encoder import BiEncoderSettings
from weft.stages.records import STAGE_FILE
from weft.systems.rows import StudyRow
from weft.systems.stages.domains import PrepareDomain, TakeCatalogue
from weft.systems.stages.evaluation import EvaluateRecommender, EvaluateWeights, EvaluateZeroShot
from weft.systems.stages.scoring import ScoringSettings
from weft.systems.stages.training import TrainBranch
from weft.systems.study_facts import (
    DomainFacts,
    data_hashes,
    row_warnings,
    stage_versions,
    trained_examples,
    unchanged,
)
from weft.training import TrainSettings
from weft.training.batches import epoch_batches

TOYS = PrepareDomain(name="toys")
SCORING = ScoringSettings(
    backbone="tiny", files="", recommender=BiEncoderSettings(), precision="float32", device="cpu"
)


def branch(run: Path, steps: int, loss: float, examples: int = 40, batch: int = 16) -> TrainBranch:
    """A finished branch on toys that ended so."""
    stage = TrainBranch(
        label=f"train toys {steps}",
        domains=(TOYS,),
        scoring=SCORING,
        split=LeaveOneOut(),
        examples=examples,
        train=TrainSettings(batch=batch),
        validation=None,
        data_seed=0,
        seed=steps,
        lora=LoraSettings(),
        init_seed=0,
    )
    stage.folder(run).mkdir(parents=True)
    ending = [[loss, float(np.log(batch))]] * min(steps, 6)
    write_json(stage.folder(run) / "ending.json", ending)
    return stage


def row(name: str, weights: TrainBranch | None) -> StudyRow:
    settings: dict[str, Any] = {
        "label": name,
        "domain": TOYS,
        "evaluate": EvaluationSettings(),
        "scoring": SCORING,
    }
    evaluation: EvaluateRecommender = EvaluateZeroShot(**settings)
    if weights is not None:
        evaluation = EvaluateWeights(**settings, weights=weights)
    return StudyRow("toys", name, "", weights, [evaluation])


def test_a_collapsed_branch_spoils_the_rows_it_is_part_of_and_a_short_one_is_said(
    tmp_path: Path,
) -> None:
    dead, short = branch(tmp_path, 60, float(np.log(16))), branch(tmp_path, 2, 2.7)
    found = {
        name: row_warnings(row(name, weights), "weaverec", (dead, short), tmp_path)
        for name, weights in (("dead", dead), ("short", short), ("zero-shot", None))
    }
    (collapsed,) = found["dead"]
    assert collapsed.spoils
    assert "collapsed: its loss ended at 2.77" in collapsed.text
    assert "part of" not in collapsed.text  # it stands beside the rows
    assert [(one.text, one.spoils) for one in found["short"]] == [
        ("Too short to judge whether it learned: the branch 'toys 2'.", False)
    ]
    assert found["zero-shot"] == []


def test_training_that_changed_nothing_is_said(tmp_path: Path) -> None:
    trained = row("target-only", branch(tmp_path, 20, 0.5))
    zero = result([1.0, 5.0, 2.0])
    same = {"zero-shot": zero, "target-only": result([1.0, 5.0, 2.0])}
    (one,) = unchanged(trained, same)
    assert one.spoils and one.text.startswith("It ranks every target as zero-shot does")
    assert unchanged(trained, same | {"target-only": result([1.0, 5.0, 2.5])}) == []
    assert unchanged(row("zero-shot", None), same) == []
    assert unchanged(trained, {"target-only": zero}) == []


@pytest.mark.parametrize(("count", "batch"), [(60, 16), (7, 16), (16, 16), (500, 64), (1029, 64)])
def test_as_many_examples_are_said_as_an_epoch_trains_on(count: int, batch: int) -> None:
    part, lengths = np.arange(count), np.arange(count) % 9
    batches = epoch_batches([part], [lengths], batch, seed=1, epoch=0)
    assert trained_examples(count, batch) == sum(len(one.rows) for one in batches)


def test_fewer_examples_than_asked_are_said_with_the_reason(tmp_path: Path) -> None:
    facts = DomainFacts({"toys": domain()}, {"toys": TOYS}, EvaluationSettings())
    there = len(facts.splits["toys"].train)
    stages = [
        branch(tmp_path, 1, 0.5, examples=40),
        branch(tmp_path, 2, 0.5, examples=there + 100, batch=1),
        branch(tmp_path, 3, 0.5, examples=32),
    ]
    first, second = facts.shortfalls([*stages, stages[0]], tmp_path)["toys"]
    assert first == (
        "toys: 40 training examples asked, 32 trained in an epoch: 8 are left over from batches of "
        "16."
    )
    assert second == (
        f"toys: {there + 100} training examples asked, {there} trained in an epoch: the log has "
        f"{there}."
    )


def test_versions_of_a_run_that_went_on_under_others_are_all_said(tmp_path: Path) -> None:
    first, second = TOYS, TakeCatalogue(domain=TOYS)
    for stage, torch in ((first, "2.12"), (second, "2.13")):
        stage.folder(tmp_path).mkdir(parents=True)
        record = {"versions": {"torch": torch, "weft": "1.0"}}
        write_json(stage.folder(tmp_path) / STAGE_FILE, record)
    assert stage_versions([second], tmp_path) == {"weft": "1.0", "torch": "2.12 and 2.13"}


def test_a_domain_that_an_older_weft_prepared_has_no_hash_to_say(tmp_path: Path) -> None:
    stages = {name: PrepareDomain(name=name) for name in ("new", "old")}
    for name, stage in stages.items():
        (stage.folder(tmp_path) / "domain").mkdir(parents=True)
        source = {"hash": "d" * 32} if name == "new" else {}
        write_json(stage.folder(tmp_path) / "domain" / "domain.json", {"source": source})
    assert data_hashes(stages, tmp_path) == {"new": "d" * 32}
