"""A study's report, out of finished stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from weft.data.domain import Domain
from weft.data.splits import make_split
from weft.evaluation.result import Result
from weft.report.build import target_report
from weft.report.model import RunReport, TargetReport, UserCase
from weft.report.serving import RowInfo
from weft.stages.graph import reached
from weft.stages.records import seconds_of
from weft.stages.stage import Stage
from weft.systems.plan import Plan
from weft.systems.recipe import StudyRecipe
from weft.systems.rows import StudyRow
from weft.systems.stages.evaluation import shown_users
from weft.systems.stages.training import TrainingStage
from weft.systems.study_facts import (
    DomainFacts,
    data_hashes,
    row_warnings,
    stage_versions,
    unchanged,
)
from weft.systems.system import System


def timings(stages: Sequence[Stage], run: Path) -> dict[str, float]:
    """Seconds of every finished stage, by label."""
    seconds = {stage.label: seconds_of(stage, run) for stage in reached(stages)}
    return {label: one for label, one in seconds.items() if one is not None}


@dataclass(frozen=True)
class StudyReport:
    """All that a report is written from: a system's rows, and the folder of its finished run."""

    system: System[Any]
    rows: Sequence[StudyRow]
    run: Path

    @property
    def recipe(self) -> StudyRecipe:
        return self.plan.recipe

    @property
    def plan(self) -> Plan:
        return self.system.plan

    @cached_property
    def domains(self) -> dict[str, Domain]:
        """Every domain, targets or not."""
        return {name: stage.domain(self.run) for name, stage in self.plan.domains.items()}

    @cached_property
    def targets(self) -> list[str]:
        return list(dict.fromkeys(one.target for one in self.rows))

    @cached_property
    def trained(self) -> dict[str, TrainingStage]:
        """Every training that a row rests on and that left a learning curve, by label."""
        trained: dict[str, TrainingStage] = {}
        todo: list[Stage] = [stage for one in self.rows for stage in one.evaluations]
        seen: set[str] = set()
        while todo:
            stage = todo.pop(0)
            if stage.key in seen:
                continue
            seen.add(stage.key)
            todo.extend(stage.parents.values())
            if isinstance(stage, TrainingStage) and stage.has_curve(self.run):
                trained.setdefault(stage.label, stage)
        return trained

    def build(self, seconds: Mapping[str, float]) -> RunReport:
        """The report; `seconds` are those of every stage, by label."""
        system, recipe, run = self.system, self.recipe, self.run
        facts = DomainFacts(self.domains, self.plan.domains, recipe.evaluate)
        fewer = facts.shortfalls(self.trained.values(), run)
        tables = [self._table(target) for target in self.targets]
        among = "among candidates" if recipe.evaluate.candidates else "of all"
        return RunReport(
            title=recipe.name or "weft run",
            system=system.title,
            summary=self._summary(),
            featured=system.featured,
            domains=[
                table.model_copy(
                    update={
                        "facts": facts.targets(target),
                        "cautions": [*table.cautions, *fewer.pop(target, [])],
                    }
                )
                for target, table in zip(self.targets, tables, strict=True)
            ],
            learning_curves={label: stage.curve(run) for label, stage in self.trained.items()},
            branches={label: system.branch(stage) for label, stage in self.trained.items()},
            validation_metric=f"NDCG@10 {among}",
            users=[case for target in self.targets for case in self._users(target)],
            tables=system.tables(run, seconds),
            notes=[
                *recipe.notes,
                *(sentence for name in list(fewer) for sentence in fewer[name]),  # mere sources
                *system.notes(run),
            ],
            versions=stage_versions((s for one in self.rows for s in one.evaluations), run),
            data=data_hashes(self.plan.domains, run),
            timings=dict(seconds),
        )

    def _summary(self) -> str:
        recipe = self.recipe
        seeds = {s.name: len(s.seeds) + 1 for s in recipe.domains if s.seeds}
        words = [
            f"{len(recipe.domains)} domains, {len(self.targets)} of them targets.",
            f"Backbone {recipe.backbone}; {self.system.training_words()}; seed {recipe.seed}.",
        ]
        words += [f"{name} is run with {count} seeds." for name, count in seeds.items()]
        if recipe.mall is not None:
            words.append("The data are generated (synthetic).")
        return " ".join(words)

    def _table(self, target: str) -> TargetReport:
        system, run = self.system, self.run
        rows = [one for one in self.rows if one.target == target]
        results: dict[str, Result | list[Result]] = {}
        for one in rows:
            loaded = [stage.result(run) for stage in one.evaluations]
            results[one.row] = loaded[0] if len(loaded) == 1 else loaded
        trained = self.trained.values()
        info = {
            one.row: RowInfo(
                about=one.about,
                cost=None if one.cost is None else int(one.cost),
                folder=one.name if one.savable else None,
                warnings=(
                    *row_warnings(one, system.featured, trained, run),
                    *unchanged(one, results),
                ),
            )
            for one in rows
        }
        return target_report(
            results,
            system.baseline,
            info=info,
            headline=self.recipe.headline,
            contrasts=system.contrasts,
        )

    def _users(self, target: str) -> Iterator[UserCase]:
        """This target's share of the users shown: `show_users` in all, dealt out over the targets.

        Which ones is decided by their place in the domain, never by how well they are served.
        """
        count, domain = self.recipe.show_users, self.domains[target]
        place = self.targets.index(target)
        share = len(range(place, count, len(self.targets)))
        shown = shown_users(make_split(domain, self.plan.split).test, count)
        rows = (np.arange(min(share, len(shown))) + place) % max(1, len(shown))
        shown = shown.take(np.sort(rows))
        if not len(shown):
            return
        titles = domain.items.titles
        suggestions = {
            one.row: one.evaluations[0].suggestions(self.run)
            for one in self.rows
            if one.target == target and one.published
        }
        for user, history, item in zip(
            shown.user_ids(), shown.histories(), shown.targets.tolist(), strict=True
        ):
            yield UserCase(
                domain=target,
                user=user,
                history=[titles[i] for i in history.tolist()],
                target=titles[item],
                suggestions={row: by_user[user] for row, by_user in suggestions.items()},
            )
