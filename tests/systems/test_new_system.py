"""A system of one's own is a package and a line of the registry: here a line of adapters for each domain,
through windows of time, whose last ones are merged over the domains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from in_place import InPlace
from pydantic import Field
from world import recipe, write_recipe

from weft.data.filters import Filters
from weft.data.splits import make_split
from weft.report.model import Branch, ReportTable
from weft.stages.stage import Stage
from weft.systems.baselines import baseline_rows
from weft.systems.plan import BranchOptions, Plan
from weft.systems.recipe import StudyRecipe
from weft.systems.registry import SYSTEMS, load_recipe
from weft.systems.rows import Cost, StudyRow
from weft.systems.runner import run_plan
from weft.systems.stages.merging import MergeAdapters
from weft.systems.stages.training import TrainBranch, TrainingStage
from weft.systems.system import Contrasts, System


class LinesRecipe(StudyRecipe):
    system: Literal["lines"] = "lines"
    windows: tuple[int, ...] = Field(min_length=1, description="each one's end")


@dataclass(frozen=True)
class Lines(System[LinesRecipe]):
    title: ClassVar[str] = "Lines"
    recipe_class: ClassVar[type[StudyRecipe]] = LinesRecipe
    baseline: ClassVar[str] = "last window"
    featured: ClassVar[str] = "merged"
    contrasts: ClassVar[Contrasts] = (("merged", "last window", "what other domains add"),)

    def line(self, domain: str) -> list[TrainBranch]:
        """The domain's adapters, each trained on from the one before."""
        line: list[TrainBranch] = []
        for number, until in enumerate(self.recipe.windows):
            start = line[-1] if line else None
            options = BranchOptions(label=f", window {number}", start=start)
            whole = self.plan.adapter_branch([domain], self.recipe.seed, options)
            filters = Filters(time_until=until)
            window = replace(whole.domains[0], label=f"{domain} until {until}", filters=filters)
            line.append(replace(whole, domains=(window,)))
        return line

    def rows(self) -> list[StudyRow]:
        rows = []
        lasts = tuple(self.line(spec.name)[-1] for spec in self.recipe.domains)
        share = (1 / len(lasts),) * len(lasts)
        merged = MergeAdapters(label="merge the lines", parts=lasts, weights=share)
        for spec, last in zip(self.recipe.domains, lasts, strict=True):
            rows += baseline_rows(self.plan, spec.name)
            for row, stage in (("last window", last), ("merged", merged)):
                evaluation = self.plan.evaluation(spec.name, row, stage)
                cost = Cost.MERGE if stage is merged else Cost.BRANCH
                rows.append(
                    StudyRow(spec.name, row, row, stage, [evaluation], published=True, cost=cost)
                )
        return rows

    def further(self) -> list[Stage]:
        """The first window's adapters, measured too."""
        names = [spec.name for spec in self.recipe.domains]
        return [self.plan.evaluation(name, "first window", self.line(name)[0]) for name in names]

    def tables(self, run: Path, timings: Mapping[str, float]) -> list[ReportTable]:
        cells = [[name, str(len(self.line(name)))] for name in self.plan.domains]
        return [ReportTable(title="Windows", about="", header=["domain", "windows"], rows=cells)]

    def branch(self, stage: TrainingStage) -> Branch:
        return Branch(domains=stage.domain_names, kind="window", shown=True)

    def training_words(self) -> str:
        return f"{len(self.recipe.windows)} windows"


def test_a_system_over_domains_and_windows_is_a_class_and_a_line(
    backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SYSTEMS, "lines", f"{__name__}:Lines")
    values: dict[str, Any] = recipe(
        backbone, system="lines", domains=["home", "toys"], windows=[1_710_000_000, 2_000_000_000]
    )
    values["branches"]["examples"] = 1000
    study = load_recipe(write_recipe(tmp_path / "lines.yaml", values))
    plan = Plan(study, None, "cpu")
    report = run_plan(plan, tmp_path / "run", InPlace())
    names = ["popularity", "zero-shot", "last window", "merged"]
    assert [[row.name for row in one.rows] for one in report.domains] == [names, names]
    assert [table.title for table in report.tables] == ["Windows"]
    assert len(report.branches) == 4
    first, last = Lines(plan, study).line("home")  # type: ignore[arg-type]
    assert last.start is first
    early, late = (one.domains[0].domain(tmp_path / "run") for one in (first, last))
    assert 0 < len(early.sequences.item) < len(late.sequences.item)
    cautions = report.domains[0].cautions  # of the examples that a window itself has
    for one, domain in ((first, early), (last, late)):
        there = len(make_split(domain, one.split).train)
        assert there < one.examples
        assert any(f"the log has {there:,}" in text for text in cautions)
