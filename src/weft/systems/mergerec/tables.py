"""MergeRec's report: its rows, contrasts, the tables beside the rows, and words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft.evaluation.compare import holm
from weft.evaluation.domains import compare_over_domains, mean_over_domains
from weft.learning.groups import Grouping
from weft.merging.methods import make_method
from weft.report.format import count_words, number
from weft.report.model import Branch, ReportTable
from weft.stages.stage import Stage
from weft.systems.baselines import ZERO_SHOT, baseline_rows
from weft.systems.domain_tables import (
    METRICS,
    DomainsRow,
    difference_words,
    domain_means,
    domains_table,
)
from weft.systems.mergerec.recipe import (
    BASELINE,
    DOMAIN_MODEL,
    FEATURED,
    FEW,
    JOINT,
    SEQUENCES,
    MergeRecRecipe,
    Uniform,
)
from weft.systems.plan import Plan
from weft.systems.recipe import MethodSpec
from weft.systems.rows import Cost, StudyRow
from weft.systems.stages.learning import LearnWeights
from weft.systems.stages.merging import MergeCheckpoints
from weft.systems.stages.training import TrainingStage, branch_seed
from weft.systems.stages.weights import CheckpointStage

if TYPE_CHECKING:
    from weft.systems.mergerec.algorithm import MergeRec

CONTRASTS = (
    (FEATURED, ZERO_SHOT, "what the merged models add to the untrained backbone"),
    (FEATURED, DOMAIN_MODEL, "what one model for all costs a domain"),
    (FEATURED, JOINT, "doing without everyone's users"),
)
"""(row, against, what the difference tells)."""

AVERAGE, START = "weight average", "start"  # more rows of the table of unseen domains
PAIRING = "Each domain counts alike; differences are paired by user within each domain."


@dataclass(frozen=True)
class MergeRecTables:
    """The rows and tables of a MergeRec recipe."""

    system: MergeRec

    @property
    def plan(self) -> Plan:
        return self.system.plan

    @property
    def recipe(self) -> MergeRecRecipe:
        return self.system.recipe

    @property
    def names(self) -> list[str]:
        return self.system.names

    # --- rows

    @cached_property
    def merges(self) -> dict[str, tuple[str, CheckpointStage]]:
        """The main rows that are one model for all domains: row -> (what it is, its stage)."""
        recipe, system = self.recipe, self.system
        rows: dict[str, tuple[str, CheckpointStage]] = {}
        if recipe.joint is not None:
            about = "one model of all domains' users: what MergeRec's setting does not allow"
            rows[JOINT] = (about, system.joint())
        for one in recipe.uniform:
            rows[one.row] = (_about_uniform(one), system.uniform(one))
        rows[FEATURED] = (
            "weights learned from catalogues",
            system.learned_merge(recipe.variant(), FEATURED),
        )
        for name, changes in recipe.variants.items():
            about = f"as {FEATURED}, but {_words(changes)}"
            rows[name] = (about, system.learned_merge(recipe.variant(changes), name))
        return rows

    @cached_property
    def rows(self) -> list[StudyRow]:
        """Every row of every target's table, baselines first."""
        rows: list[StudyRow] = []
        plan = self.plan
        for target in self.names:
            model = self.system.domain_model(target)
            best = self.system.best_uniform(target)
            about = "the uniform merge that is best over validation users of all domains"
            rows += [
                *baseline_rows(plan, target),
                self.system.weights_row(
                    target, DOMAIN_MODEL, "the domain's own model", model,
                    published=True, cost=Cost.BRANCH,
                ),
                StudyRow(target, BASELINE, about, None, [best]),
            ]  # fmt: skip
            for row, (words, stage) in self.merges.items():
                published = row in (FEATURED, JOINT)
                # The joint model is what this setting does not allow, a variant a question.
                merged = row == FEATURED or row in {one.row for one in self.recipe.uniform}
                cost = Cost.MERGE if merged else None
                rows.append(
                    self.system.weights_row(
                        target, row, words, stage, published=published, cost=cost
                    )
                )
        return rows

    def _row(self, name: str, stage: CheckpointStage | None) -> DomainsRow:
        """A model's evaluations on every domain."""
        return DomainsRow(
            name, [self.plan.evaluation(target, name, stage) for target in self.names]
        )

    def _learned_row(self, name: str, label: str, changes: Mapping[str, Any]) -> DomainsRow:
        """A merge of weights that are learned with a variant's changes."""
        return self._row(name, self.system.learned_merge(self.recipe.variant(changes), label))

    @cached_property
    def main(self) -> dict[str, DomainsRow]:
        """The main rows, over all domains."""
        rows: dict[str, DomainsRow] = {}
        for one in self.rows:
            rows.setdefault(one.row, DomainsRow(one.row, [])).stages.append(one.evaluations[0])
        return rows

    @cached_property
    def studies(self) -> dict[str, list[DomainsRow]]:
        """Table -> its rows."""
        studies = {
            title: [
                self._learned_row(f"{title}: {name}", f"{title}: {name}", changes)
                for name, changes in rows.items()
            ]
            for title, rows in self.recipe.studies.items()
        }
        if (scarce := self.recipe.scarce) is not None:
            studies[FEW] = [
                self._learned_row(
                    f"{size:,} a domain, {choice}",
                    f"{size:,} {choice} probes",
                    {"probes": {"per_domain": size, "choose": choice}},
                )
                for size in scarce.per_domain
                for choice in scarce.choose
            ]
        return studies

    @cached_property
    def reseeded(self) -> list[DomainsRow]:
        """The learning with other seeds, the recipe's first."""
        variant = self.recipe.variant()
        return [self.main[FEATURED]] + [
            self._row(f"seed {seed}", self.system.learned_merge(variant, f"seed {seed}", seed=seed))
            for seed in self.recipe.seeds
        ]

    @cached_property
    def unseen(self) -> dict[str, DomainsRow]:
        """The merges of all domains but the one that each is measured on."""
        if not self.recipe.unseen:
            return {}
        system, rows = self.system, dict[str, DomainsRow]()
        method, variant = self.recipe.collaborative.method, self.recipe.variant()
        for target in self.names:
            others = [name for name in self.names if name != target]
            without = f"without {target}"
            share = (1 / len(others),) * len(others)
            start = tuple(self.recipe.collaborative.start(len(others)))
            merges: dict[str, MergeCheckpoints | None] = {
                ZERO_SHOT: None,
                AVERAGE: system.merged("linear", others, share, f"average {without}"),
                START: system.merged(method, others, start, f"start {without}"),
                FEATURED: system.learned_merge(variant, f"{FEATURED} {without}", names=others),
            }
            for row, stage in merges.items():
                label = row if stage is None else f"{row}, {without}"
                stages = rows.setdefault(row, DomainsRow(row, [])).stages
                stages.append(self.plan.evaluation(target, label, stage))
        return rows

    def further(self) -> list[Stage]:
        """The evaluations that only the tables need."""
        studies = (row for rows in self.studies.values() for row in rows)
        rows = [*studies, *self.reseeded, *self.unseen.values()]
        return [stage for row in rows for stage in row.stages]

    # --- tables

    def tables(self, run: Path) -> list[ReportTable]:
        """The tables over all domains, and of weights."""
        main = list(self.main.values())
        tables = [domains_table("All domains", PAIRING, main, BASELINE, run)]
        masked_too = self.main[FEATURED].stages[0].has_masked(run)
        if masked_too:
            title = "All domains, history masked"
            about = f"The same rankings without the items of a user's history. {PAIRING}"
            tables.append(domains_table(title, about, main, BASELINE, run, masked=True))
        for title, changed in self.studies.items():
            rows = [self.main[FEATURED], *changed]
            about = f"Each row is {FEATURED} with a change, and is compared with it. {PAIRING}"
            tables.append(domains_table(title, about, rows, FEATURED, run, masked_too=masked_too))
        if self.recipe.seeds:
            tables.append(self._seeds(run))
        if self.unseen:
            tables.append(self._unseen(run))
        return [*tables, self._weights(run), self._sweeps(run)]

    def _seeds(self, run: Path) -> ReportTable:
        """The same learning with several seeds, and how far it spreads."""
        results = [row.results(run) for row in self.reseeded]
        rows = [
            ["the recipe's seed" if row.name == FEATURED else row.name, *domain_means(one)]
            for row, one in zip(self.reseeded, results, strict=True)
        ]
        means = [[mean_over_domains(one, metric).mean for one in results] for metric in METRICS]
        ranges = [f"{number(min(one))} … {number(max(one))}" for one in means]
        return ReportTable(
            title="Seeds of the learning",
            about=f"Mean over the domains of {len(rows)} learnings that differ in their seed: probes' "
            "order, and which are held out. The models merged are the same.",
            header=["seed", *METRICS.values()],
            rows=[*rows, ["least … most", *ranges]],
        )

    def _unseen(self, run: Path) -> ReportTable:
        """Each domain by merges of all others' models."""
        start = f"all at {self.recipe.collaborative.start(len(self.names) - 1)[0]:g}"
        results = {name: row.results(run) for name, row in self.unseen.items()}
        rows = [
            [name, *(" / ".join(domain_means([one[k]])) for one in results.values())]
            for k, name in enumerate(self.names)
        ]
        rows.append(["mean", *(" / ".join(domain_means(one)) for one in results.values())])
        metric, words = next(iter(METRICS.items()))
        differences = [
            compare_over_domains(results[FEATURED], one, metric)
            for name, one in results.items()
            if name != FEATURED
        ]
        corrected = holm([one.p for one in differences])
        tests = [difference_words(one, p) for one, p in zip(differences, corrected, strict=True)]
        rows.append([f"{FEATURED} − it, {words}", *tests, "–"])
        return ReportTable(
            title="Unseen domains",
            about=f"{' / '.join(METRICS.values())} of each domain by a merge of all other domains' "
            f"models, history not masked; '{start}' is where learning starts.",
            header=["left out", *(start if name == START else name for name in results)],
            rows=rows,
        )

    def _weights(self, run: Path) -> ReportTable:
        """What was learned, and how far the objective fell on probes that were held out."""
        rows = []
        for row, stage in self._learned():
            learned = stage.learned(run)
            held_out, cells = learned.held_out, map(_range, learned.coefficients)
            change = f"{held_out[0]:.4g} → {held_out[-1]:.4g}" if held_out else "–"
            rows.append([row, *cells, change, f"{learned.kept_step:,}"])
        return ReportTable(
            title="Learned weights",
            about="Of each domain's task vector, least to most where there are several groups; the "
            "objective's mean over held-out probes, before and after; steps.",
            header=["row", *self.names, "objective", "steps"],
            rows=rows,
        )

    def _sweeps(self, run: Path) -> ReportTable:
        """What each uniform weight reached on validation users."""
        rows = []
        for one in self.recipe.uniform:
            choice = self.system.uniform_weight(one)
            tried, taken = choice.tried(run), choice.weights(run)
            for trial in tried:
                mark = " ✓" if trial.weights == taken and len(tried) > 1 else ""
                weight = f"{trial.weights[0]:g}{mark}"
                rows.append([one.row, weight, number(trial.mean), *map(number, trial.domains)])
        users = self.recipe.choose_users
        return ReportTable(
            title="Uniform weights",
            about=f"NDCG@10 over {users:,} validation users of each domain, history not masked; ✓ the "
            "weight taken. Choosing it looks at users, which learning weights does not.",
            header=["row", "weight", "mean", *self.names],
            rows=rows,
        )

    # --- words

    def _learned(self) -> list[tuple[str, LearnWeights]]:
        """The main rows whose weights were learned, and where."""
        merges = [(row, stage) for row, (_, stage) in self.merges.items()]
        return [
            (row, stage.weights)
            for row, stage in merges
            if isinstance(stage, MergeCheckpoints) and isinstance(stage.weights, LearnWeights)
        ]

    def notes(self, run: Path) -> list[str]:
        """What a reader must know beside the numbers."""
        best = self.system.uniform_choice().chosen(run)[0]
        notes = [f"The best uniform merge is {self.recipe.uniform[best].row}."]
        for row, stage in self._learned():
            notes += [f"{row}: {note}." for note in stage.notes(run)]
        return list(dict.fromkeys(notes))


def mergerec_branch(recipe: MergeRecRecipe, stage: TrainingStage) -> Branch:
    """What a trained model is."""
    names = stage.domain_names
    alone = stage.seed == branch_seed(recipe.seed, names) and len(names) == 1
    return Branch(domains=names, kind=DOMAIN_MODEL if alone else JOINT, shown=True)


def mergerec_training_words(recipe: MergeRecRecipe) -> str:
    """The training in half a sentence."""
    branches, learning = recipe.branches, recipe.collaborative
    epochs = count_words(branches.epochs, "epoch")
    joint = ""
    if recipe.joint is not None:
        together = recipe.joint_branches()
        joint = f" (the joint model {together.examples:,} of each × {together.epochs})"
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
    words = []
    for name, value in changes.items():
        if name == "method":
            words.append(method_words(value))
        elif name == "weights":
            words.append(_GROUPING[value])
        elif name == SEQUENCES:
            words.append("real training sequences for probes")
        elif isinstance(value, dict):
            words.append(", ".join(f"{name} {k} {v}" for k, v in value.items()))
        else:
            words.append(f"{name} {value}")
    return ", ".join(words)


def method_words(method: MethodSpec) -> str:
    """A merging method in a few words: `ties (density 0.2, weigh after)`."""
    options = method if isinstance(method, dict) else {"name": method}
    details = ", ".join(f"{k} {v}" for k, v in options.items() if k not in ("name", "then"))
    name = make_method(method).name.replace("_", " ")
    return name + (f" ({details})" if details else "")


def _about_uniform(one: Uniform) -> str:
    words = method_words(one.method)
    return f"{words}, one weight for all, chosen on validation" if one.weights else words


def _range(values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.3f}" if low == high else f"{low:.3f} … {high:.3f}"
