"""What a run's report says beside its numbers: what spoils a row, what to serve, what was known."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from world import recipe

import weft
from weft.adapters import load_adapter
from weft.artifacts.atomic import read_json, write_json
from weft.data.domain import Domain
from weft.data.folder import load_domain
from weft.data.splits import make_split
from weft.evaluation.result import Result
from weft.report.markdown import render_markdown
from weft.report.model import RunReport
from weft.settings import validate
from weft.systems.plan import Plan
from weft.systems.publishing import publish
from weft.systems.registry import system_of
from weft.systems.runner import run
from weft.systems.study_report import StudyReport
from weft.systems.weaverec.algorithm import WeaveRec
from weft.systems.weaverec.recipe import WeaveRecRecipe


def plan_of(backbone: Path, **changes: Any) -> Plan:
    return Plan(validate(WeaveRecRecipe, recipe(backbone, **changes)), None, "cpu")


def test_a_collapsed_branch_is_said_with_the_rows_it_spoils(
    finished: tuple[Path, RunReport], backbone: Path, tmp_path: Path
) -> None:
    folder, _ = finished
    shutil.copytree(folder, tmp_path / "run")
    plan = plan_of(backbone)
    branch = WeaveRec.of(plan).target_branch("kitchen")
    guessing = [[float(np.log(16)), float(np.log(16))] for _ in range(5)]
    write_json(branch.folder(tmp_path / "run") / "ending.json", guessing)
    system = system_of(plan)
    report = StudyReport(system, system.rows(), tmp_path / "run").build({})
    sentence = (
        "The branch 'kitchen, seed 3' collapsed: its loss ended at 2.77 (mean of the last 5 steps, "
        "standard error 0.00), that of guessing among a batch of 16 (2.77)."
    )
    spoilt = {
        (domain.domain, row.name)
        for domain in report.domains
        for row in domain.rows
        if any(one.text == sentence and one.spoils for one in row.warnings)
    }
    assert ("kitchen", "weaverec") in spoilt and ("home", "source: kitchen") in spoilt
    assert ("home", "all-data") not in spoilt and ("kitchen", "popularity") not in spoilt
    assert not any("collapsed" in note for note in report.notes)
    kitchen = next(one for one in report.domains if one.domain == "kitchen")
    assert kitchen.serving is not None
    assert {"target-only", "weaverec", "soup"} <= set(kitchen.serving.left_out)
    text = render_markdown(report)
    assert text.index("What to serve") < text.index("collapsed: its loss")


def test_the_row_to_serve_is_named_with_its_folder(finished: tuple[Path, RunReport]) -> None:
    folder, report = finished
    every = read_json(folder / "recommendation.json")["targets"]
    assert [one["target"] for one in every] == [one.domain for one in report.domains]
    for domain, one in zip(report.domains, every, strict=True):
        choice = domain.serving
        assert choice is not None
        assert (one["row"], one["reason"]) == (choice.row, choice.reason)
        if one["folder"] is not None:
            assert (folder / one["folder"] / "weft.json").is_file()
        beside = read_json(folder / "recommenders" / domain.domain / "recommendation.json")
        assert beside == choice.model_dump(mode="json")


def test_a_row_that_is_chosen_is_published(
    finished: tuple[Path, RunReport], backbone: Path, tmp_path: Path
) -> None:
    folder, _ = finished
    shutil.copytree(folder, tmp_path / "run")
    plan = plan_of(backbone)
    publish(system_of(plan).rows(), plan, tmp_path / "run", {"home": "soup", "toys": "popularity"})
    assert load_adapter(tmp_path / "run" / "recommenders" / "home" / "soup")
    assert not (tmp_path / "run" / "recommenders" / "toys" / "soup").exists()


def test_what_was_trained_and_tested_on_is_said(finished: tuple[Path, RunReport]) -> None:
    folder, report = finished
    for domain in report.domains:
        facts = domain.facts
        assert facts is not None and facts.targets == domain.protocol.targets
        split = make_split(finished_domain(folder, domain.domain), "leave_one_out")
        sequences = split.train.domain.sequences
        times = sequences.time[sequences.offsets[split.test.user] + split.test.end]
        early = 0
        for user, time in zip(split.test.user.tolist(), times.tolist(), strict=True):
            others = split.train.user != user
            at = sequences.offsets[split.train.user[others]] + split.train.end[others]
            early += bool((sequences.time[at] > time).any())
        assert facts.earlier == pytest.approx(early / len(times))
    assert {"weft", "python", "torch"} <= set(report.versions)
    assert set(report.data) == {"home", "toys", "kitchen"}


def test_one_cut_in_time_for_everybody(backbone: Path, tmp_path: Path) -> None:
    changes = {
        "domains": ["home", {"name": "toys", "target": False}],
        "controls": [],
        "evaluate": {
            "split": {"kind": "global_time", "quantiles": [0.7, 0.8]},
            "candidates": {"drawn": 9},
            "at": [1, 5, 10],
        },
        "branches": {"examples": 16, "batch": 16, "lora": {"rank": 2}},
    }
    report = run(validate(WeaveRecRecipe, recipe(backbone, **changes)), tmp_path / "run", workers=1)
    (domain,) = report.domains
    assert domain.protocol.split.startswith("global_time: validation from 0.7")
    assert domain.protocol.targets > domain.protocol.users > 0
    assert domain.facts is not None
    assert domain.facts.earlier == 0.0
    result = Result.load(tmp_path / "run" / "results" / "home" / "weaverec")
    assert len(result.values("ndcg@5")) == domain.protocol.users
    assert len(report.users) == 2 and all(case.suggestions for case in report.users)
    found = weft.load_recommender(tmp_path / "run" / "recommenders" / "home" / "weaverec")
    home = finished_domain(tmp_path / "run", "home")
    assert make_split(home, found.split).kind == "global_time"


def finished_domain(run_folder: Path, name: str) -> Domain:
    """What the finished stage of a domain left."""
    return next(
        load_domain(path / "domain")
        for path in (run_folder / "stages").glob("PrepareDomain-*")
        if read_json(path / "domain" / "domain.json")["name"] == name
    )
