"""A run is the same whoever carries its stages out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from in_place import InPlace
from world import recipe

from weft.report.model import RunReport
from weft.settings import validate
from weft.stages.executor import StageEvent
from weft.systems.plan import Plan
from weft.systems.runner import run_plan
from weft.systems.weaverec.algorithm import WeaveRec
from weft.systems.weaverec.recipe import WeaveRecRecipe


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the processes of a run have."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_run_in_this_process_gives_the_bits_of_a_run_in_others(
    finished: tuple[Path, RunReport], backbone: Path, tmp_path: Path, one_thread: None
) -> None:
    values = recipe(backbone, controls=[], domains=["home", {"name": "toys", "target": False}])
    plan = Plan(validate(WeaveRecRecipe, values), None, "cpu")
    labels: list[str] = []

    def watch(event: StageEvent) -> None:
        if event.kind == "done":
            labels.append(event.stage.label)

    report = run_plan(plan, tmp_path / "run", InPlace(), watch=watch)
    (domain,) = report.domains
    rows = ["popularity", "zero-shot", "target-only", "weaverec"]
    assert [row.name for row in domain.rows] == rows
    assert labels[:2] == ["domain home", "domain toys"]
    hybrid = WeaveRec.of(plan).hybrid_branch("home", "toys")
    here, there = (
        (hybrid.folder(run) / "adapter" / "adapter_model.safetensors").read_bytes()
        for run in (tmp_path / "run", finished[0])
    )
    assert here == there
