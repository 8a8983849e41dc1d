"""MergeRec as the runner sees it: rows, contrasts, and the tables beside the rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from weft.artifacts.atomic import read_json
from weft.learning.groups import Grouping
from weft.report.format import number
from weft.report.model import Branch, Table
from weft.stages.stage import Stage
from weft.systems.common_stages import CHOICE, MASKED, WEIGHTS, branch_seed
from weft.systems.costs import Cost
from weft.systems.domain_tables import Line, over_domains, spread, unseen_table
from weft.systems.measured import Measured
from weft.systems.mergerec.algorithm import BASELINE, FEATURED, JOINT, OWN, MergeRec, method_words
from weft.systems.mergerec.recipe import FEW, SEQUENCES, MergeRecRecipe, Uniform
from weft.systems.plan import Plan

CONTRASTS = (
    (FEATURED, "zero-shot", "what the merged models add to the untrained backbone"),
    (FEATURED, OWN, "what one model for all costs a domain"),
    (FEATURED, JOINT, "doing without everyone's users"),
)
"""(row, against, what the difference tells)."""


@dataclass(frozen=True)
class MergeRecStudy:
    """The system of a MergeRec recipe."""

    plan: Plan
    recipe: MergeRecRecipe

    title = "MergeRec"
    baseline = BASELINE
    featured = FEATURED
    contrasts = CONTRASTS

    @cached_property
    def system(self) -> MergeRec:
        return MergeRec(self.plan, self.recipe)

    @property
    def names(self) -> list[str]:
        return self.system.names

    # --- rows

    @cached_property
    def merges(self) -> dict[str, tuple[str, Stage]]:
        """The main rows that are one model for all domains: row -> (what it is, its stage)."""
        recipe, system = self.recipe, self.system
        rows: dict[str, tuple[str, Stage]] = {}
        if recipe.joint is not None:
            about = "one model of all domains' users: what MergeRec's setting does not allow"
            rows[JOINT] = (about, system.joint())
        for one in recipe.uniform:
            rows[one.row] = (_about_uniform(one), system.uniform(one))
        rows[FEATURED] = ("weights learned from catalogues", system.woven({}, FEATURED))
        for name, changes in recipe.variants.items():
            rows[name] = (f"as {FEATURED}, but {_words(changes)}", system.woven(changes, name))
        return rows

    def measured(self) -> list[Measured]:
        out: list[Measured] = []
        plan = self.plan
        for target in self.names:
            floor = plan.evaluation(target, "popularity", None, "popularity")
            zero = plan.evaluation(target, "zero-shot", None)
            own = self.system.own(target)
            best = self.system.best_uniform(target)
            about = "the uniform merge that is best over validation users of all domains"
            out += [
                Measured(target, "popularity", "most bought first; not learned", None, [floor],
                         cost=Cost.COUNTS),
                Measured(target, "zero-shot", "the backbone, untrained", None, [zero],
                         cost=Cost.BACKBONE),
                Measured(target, OWN, "the domain's own model", own,
                         [plan.evaluation(target, OWN, own)], (), True, Cost.BRANCH),
                Measured(target, BASELINE, about, None, [best]),
            ]  # fmt: skip
            for row, (said, stage) in self.merges.items():
                evaluation = plan.evaluation(target, row, stage)
                published = row in (FEATURED, JOINT)
                # The joint model is what this setting does not allow, a variant a question.
                merged = row == FEATURED or row in {one.row for one in self.recipe.uniform}
                cost = Cost.MERGE if merged else None
                out.append(Measured(target, row, said, stage, [evaluation], (), published, cost))
        return out

    def _line(self, name: str, stage: Stage | None) -> Line:
        """A model's evaluations on every domain."""
        return Line(name, [self.plan.evaluation(target, name, stage) for target in self.names])

    @cached_property
    def lines(self) -> dict[str, Line]:
        """The main rows, over all domains."""
        found: dict[str, Line] = {}
        for one in self.measured():
            found.setdefault(one.row, Line(one.row, [])).stages.append(one.evaluations[0])
        return found

    @cached_property
    def studies(self) -> dict[str, list[Line]]:
        """Table -> its rows."""
        made = {
            title: [
                self._line(f"{title}: {name}", self.system.woven(changes, f"{title}: {name}"))
                for name, changes in rows.items()
            ]
            for title, rows in self.recipe.studies.items()
        }
        scarce = self.recipe.scarce
        if scarce is not None:
            made[FEW] = [
                self._line(f"{size:,} a domain, {how}", self.system.woven(
                    {"probes": {"per_domain": size, "choose": how}}, f"{size:,} {how} probes"))
                for size in scarce.per_domain
                for how in scarce.choose
            ]  # fmt: skip
        return made

    @cached_property
    def reseeded(self) -> list[Line]:
        """The learning with other seeds, the recipe's own first."""
        return [self.lines[FEATURED]] + [
            self._line(f"seed {seed}", self.system.woven({}, f"seed {seed}", seed=seed))
            for seed in self.recipe.seeds
        ]

    @cached_property
    def unseen(self) -> dict[str, list[Stage]]:
        """Row -> its evaluation on each domain, which the merge has not seen."""
        if not self.recipe.unseen:
            return {}
        system, found = self.system, dict[str, list[Stage]]()
        method = self.recipe.collaborative.method
        for target in self.names:
            others = [name for name in self.names if name != target]
            said = f"without {target}"
            share = [1 / len(others)] * len(others)
            start = self.recipe.collaborative.start(len(others))
            made: dict[str, Stage | None] = {
                "zero-shot": None,
                "weight average": system.merged("linear", others, {}, share, f"average {said}"),
                "start": system.merged(method, others, {}, start, f"start {said}"),
                FEATURED: system.woven({}, f"{FEATURED} {said}", names=others),
            }
            for row, stage in made.items():
                label = row if stage is None else f"{row}, {said}"
                found.setdefault(row, []).append(self.plan.evaluation(target, label, stage))
        return found

    def further(self) -> list[Stage]:
        lines = [*(line for rows in self.studies.values() for line in rows), *self.reseeded]
        unseen = (stage for stages in self.unseen.values() for stage in stages)
        return [*(stage for line in lines for stage in line.stages), *unseen]

    # --- tables

    def tables(self, run: Path, timings: Mapping[str, float]) -> list[Table]:
        main = list(self.lines.values())
        how = "Each domain counts alike; differences are paired by user within each domain."
        made = [
            over_domains("All domains", how, main, BASELINE, run),
        ]
        if (main[0].stages[0].folder(run) / MASKED).is_dir():
            about = f"The same rankings without the items of a user's history. {how}"
            made.append(
                over_domains("All domains, history masked", about, main, BASELINE, run, MASKED)
            )
        masked_too = (self.lines[FEATURED].stages[0].folder(run) / MASKED).is_dir()
        for title, rows in self.studies.items():
            lines = [self.lines[FEATURED], *rows]
            about = f"Each row is {FEATURED} with a change, and is compared with it. {how}"
            made.append(over_domains(title, about, lines, FEATURED, run, also=masked_too))
        if self.recipe.seeds:
            made.append(spread(self.reseeded, run))
        if self.unseen:
            weight = self.recipe.collaborative.start(len(self.names) - 1)[0]
            made.append(unseen_table(self.unseen, self.names, weight, run))
        return [*made, self._weights(run), self._sweeps(run)]

    def _weights(self, run: Path) -> Table:
        """What was learned, and how far the objective fell on probes that did not learn."""
        rows = []
        for row, (_, stage) in self.merges.items():
            if "weights" not in stage.parents or "collaborative" not in stage.parents[
                "weights"
            ].settings:  # fmt: skip
                continue
            said = read_json(stage.parents["weights"].folder(run) / WEIGHTS)
            held = [value for _, _, value in said["curve"] if value is not None]
            cells = [_range(values) for values in said["coefficients"]]
            fell = f"{held[0]:.4g} → {held[-1]:.4g}" if held else "–"
            rows.append([row, *cells, fell, f"{said['kept_step']:,}"])
        return Table(
            title="Learned weights",
            about="Of each domain's task vector, least to most where there are several groups; the "
            "objective's mean over held-out probes, before and after; steps.",
            header=["row", *self.names, "objective", "steps"],
            rows=rows,
        )

    def _sweeps(self, run: Path) -> Table:
        rows = []
        for one in self.recipe.uniform:
            said = read_json(self.system.chosen(one).folder(run) / WEIGHTS)
            for tried in said["tried"]:
                mark = (
                    " ✓" if tried["weights"] == said["weights"] and len(said["tried"]) > 1 else ""
                )
                rows.append(
                    [
                        one.row,
                        f"{tried['weights'][0]:g}{mark}",
                        number(tried["ndcg@10"]),
                        *(number(value) for value in tried["domains"]),
                    ]
                )
        users = self.recipe.choose_users
        return Table(
            title="Uniform weights",
            about=f"NDCG@10 over {users:,} validation users of each domain, history not masked; ✓ the "
            "weight taken. Choosing it looks at users, which learning weights does not.",
            header=["row", "weight", "mean", *self.names],
            rows=rows,
        )

    # --- words

    def notes(self, run: Path) -> list[str]:
        said = []
        choice = self.system.best_uniform(self.names[0]).parents["choice"]
        best = read_json(choice.folder(run) / CHOICE)["chosen"][0]
        said.append(f"The best uniform merge is {self.recipe.uniform[best].row}.")
        learned = [s for _, s in self.merges.values() if "weights" in s.parents]
        for stage in learned:
            found = read_json(stage.parents["weights"].folder(run) / WEIGHTS)
            for note in found.get("notes", []):
                said.append(f"{stage.label.removeprefix('merge ')}: {note}.")
        return list(dict.fromkeys(said))

    def branch(self, stage: Stage) -> Branch:
        names = [parent.settings["name"] for parent in stage.parents.values()]
        own = stage.settings["seed"] == branch_seed(self.recipe.seed, names) and len(names) == 1
        return Branch(domains=names, kind=OWN if own else JOINT, shown=True)

    def said(self) -> str:
        branches, learning = self.recipe.branches, self.recipe.collaborative
        epochs = f"{branches.epochs} epoch{'s' * (branches.epochs > 1)}"
        joint = ""
        if self.recipe.joint is not None:
            how = self.recipe.joint_branches()
            joint = f" (the joint model {how.examples:,} of each × {how.epochs})"
        return (
            f"all parameters trained on up to {branches.examples:,} examples of each domain × "
            f"{epochs}{joint}, batch {branches.batch}, learning rate {branches.learning_rate:g}; "
            f"weights of {method_words(learning.method)} learned in {learning.steps:,} steps of "
            f"{learning.batch} probes, learning rate {learning.learning_rate:g}"
        )


_GROUPING: dict[Grouping, str] = {
    "domain": "one weight a domain",
    "layer": "weights for each block",
}


def _words(changes: Mapping[str, Any]) -> str:
    """A variant's changes, for people."""
    said = []
    for name, value in changes.items():
        if name == "method":
            said.append(method_words(value))
        elif name == "weights":
            said.append(_GROUPING[value])
        elif name == SEQUENCES:
            said.append("real training sequences for probes")
        elif isinstance(value, dict):
            said.append(", ".join(f"{name} {k} {v}" for k, v in value.items()))
        else:
            said.append(f"{name} {value}")
    return ", ".join(said)


def _about_uniform(one: Uniform) -> str:
    words = method_words(one.method)
    return f"{words}, one weight for all, chosen on validation" if one.weights else words


def _range(values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.3f}" if low == high else f"{low:.3f} … {high:.3f}"
