"""X-Cross as the runner sees it: rows, contrasts, and the tables beside the rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.artifacts.atomic import read_json
from weft.errors import WeftError
from weft.report.format import metric_label, number, seconds
from weft.report.model import Branch, Table
from weft.stages.stage import STAGE_FILE, Stage
from weft.systems.common_stages import CHOICE, INTEGRATOR
from weft.systems.costs import Cost
from weft.systems.measured import Measured
from weft.systems.plan import Plan
from weft.systems.x_cross.algorithm import BASELINE, BEST, CONTRASTS, FEATURED, XCross
from weft.systems.x_cross.little_data import LimitedStudy
from weft.systems.x_cross.recipe import XCrossRecipe


@dataclass(frozen=True)
class XCrossStudy:
    """The system of an X-Cross recipe."""

    plan: Plan
    recipe: XCrossRecipe

    title = "X-Cross"
    baseline = BASELINE
    featured = FEATURED
    contrasts = CONTRASTS

    @property
    def system(self) -> XCross:
        return XCross(self.plan, self.recipe)

    @property
    def targets(self) -> list[str]:
        return [spec.name for spec in self.recipe.domains if spec.target]

    def _check_layers(self) -> None:
        """More integrated blocks than the backbone has would come out only after the sources."""
        blocks = self.plan.blocks
        rows = (self.recipe.variant(name) for name in self.recipe.variants)
        for how in (self.recipe.x_cross, *self.recipe.rivals, *rows):
            layers = getattr(how, "layers", None)
            if blocks is not None and layers is not None and layers > blocks:
                raise WeftError(
                    f"{how.kind}: layers is {layers}, and the backbone has {blocks} blocks"
                )

    def measured(self) -> list[Measured]:
        self._check_layers()
        out: list[Measured] = []
        for target in self.targets:
            floor = self.plan.evaluation(target, "popularity", None, "popularity")
            out.append(
                Measured(target, "popularity", "most bought first", None, [floor], cost=Cost.COUNTS)
            )
            about = "the source that was best on the hold-out, zero-shot"
            out.append(Measured(target, BEST, about, None, [self.system.best_source(target)]))
            for row, (said, stage) in self.system.rows(target).items():
                evaluation = self.plan.evaluation(target, row, stage)
                published = row in (BASELINE, FEATURED)
                cost = self._cost(row, stage)
                out.append(Measured(target, row, said, stage, [evaluation], (), published, cost))
        return out

    def _cost(self, row: str, stage: Stage | None) -> Cost | None:
        """Sources and new adapters are one training; ablations of X-Cross are questions."""
        if row.removeprefix(f"{FEATURED}, ") in self.recipe.variants or stage is None:
            return None
        if "integrator" in stage.settings:
            return Cost.INTEGRATION
        return Cost.MERGE if "weights" in stage.settings else Cost.BRANCH

    @property
    def limited(self) -> LimitedStudy | None:
        said = self.recipe.limited
        return None if said is None else LimitedStudy(self.system, said, self.targets)

    def further(self) -> list[Stage]:
        return [] if self.limited is None else self.limited.stages()

    def tables(self, run: Path, timings: Mapping[str, float]) -> list[Table]:
        made = [self._matrix(run), *(self._costs(target, run) for target in self.targets)]
        return made if self.limited is None else [*made, *self.limited.tables(run)]

    def notes(self, run: Path) -> list[str]:
        said = []
        for target in self.targets:
            chosen = _chosen(self.system.choice(target), run)
            said.append(f"{target}: integrated are the adapters of {' and '.join(chosen)}.")
            if target in self.recipe.among(target):
                said.append(
                    f"{target} is among its own sources: its adapter has seen the target's training "
                    "users, so what it does there is no transfer."
                )
        return said

    def branch(self, stage: Stage) -> Branch:
        """The learning curves of the rows; those of variants wait in the legend."""
        if "integrator" in stage.settings:
            target = stage.parents["domain"].settings["name"]
            shown = stage.settings["integrator"] == self.recipe.x_cross.model_dump(mode="json")
            return Branch(domains=[target], kind="integrator", shown=shown)
        names = [parent.settings["name"] for parent in stage.parents.values()]
        own = stage.settings["examples"] == self.recipe.branches.examples
        return Branch(domains=names, kind="source" if own else BASELINE, shown=not own)

    def said(self) -> str:
        sources, target = self.recipe.branches, self.recipe.target
        return (
            f"sources' adapters on up to {sources.examples:,} examples each, "
            f"{_times(sources.epochs)}, LoRA rank {sources.lora.rank}, learning rate "
            f"{sources.learning_rate:g}; on the target up to {target.examples:,} examples, "
            f"{_times(target.epochs)}, batch {target.batch}, learning rate {target.learning_rate:g} "
            f"({target.lora_learning_rate or target.learning_rate:g} of the new adapter); "
            f"{getattr(self.recipe.recommender, 'drawn', 0)} candidates drawn in training"
        )

    def _matrix(self, run: Path) -> Table:
        """Table 2's zero-shot block: every source on every target's hold-out."""
        found = {t: read_json(self.system.choice(t).folder(run) / CHOICE) for t in self.targets}
        shown = ("hit@1", "mrr@10")
        rows = []
        names = [spec.name for spec in self.recipe.domains]
        for name in names:
            row = [name]
            for target, said in found.items():
                chosen = _chosen(self.system.choice(target), run)
                of = {one["source"]: one for one in said["measured"]}
                if name not in of:
                    row.append("–")
                    continue
                values = " / ".join(number(of[name][metric]) for metric in shown)
                row.append(values + (f" ✓{chosen.index(name) + 1}" if name in chosen else ""))
            rows.append(row)
        users = ", ".join(f"{said['users']} of {target}" for target, said in found.items())
        return Table(
            title="Sources on the targets' hold-out, zero-shot",
            about=f"{' / '.join(map(metric_label, shown))} of each domain's adapter over validation "
            f"users ({users}); ✓ those that are integrated, in their order by MRR@10. On the diagonal a "
            "target's own adapter, which learned from its training users.",
            header=["adapter of", *self.targets],
            rows=rows,
        )

    def _costs(self, target: str, run: Path) -> Table:
        """Parameters and seconds beside every row."""
        rows = [one for one in self.measured() if one.target == target and one.row != "popularity"]
        lora = next(_parameters(one.adapter, run)[0] for one in rows if one.row == BASELINE)
        lines = []
        for one in rows:
            delta, head, took = 0, 0, 0.0
            used = one.adapter is not None and not one.row.startswith("source")
            if used and one.adapter is not None:
                delta, head = _parameters(one.adapter, run)
                took = _seconds(one.adapter, run) if delta + head else 0.0
            lines.append(
                [
                    one.row,
                    f"{delta:,}",
                    f"{delta / lora:.1%}",
                    f"{head:,}",
                    f"{delta + head:,}",
                    seconds(took) if took else "–",
                    seconds(_seconds(one.evaluations[0], run)),
                ]
            )
        return Table(
            title=f"What each row costs on {target}",
            about="Numbers trained on the target: of integrator or adapter, their share of a new "
            "adapter's, pooler and scorer, both; time to train them (frozen activations kept by an "
            "earlier row are not computed again; of the last attempt, where one was cut off), and to load and score the test users. The head is "
            "no part of the published 25 %.",
            header=["row", "trained", "of lora's", "head", "in all", "training", "scoring"],
            rows=lines,
        )


def _chosen(choice: Stage, run: Path) -> list[str]:
    said = read_json(choice.folder(run) / CHOICE)
    return [said["measured"][i]["source"] for i in said["chosen"]]


def _seconds(stage: Stage, run: Path) -> float:
    return float(read_json(stage.folder(run) / STAGE_FILE)["seconds"])


def _parameters(stage: Stage | None, run: Path) -> tuple[int, int]:
    """Numbers that a stage trained: of the integrator or adapter, and of the head."""
    if stage is None:
        return 0, 0
    if (stage.folder(run) / INTEGRATOR).is_dir():
        said: dict[str, Any] = read_json(stage.folder(run) / INTEGRATOR / "integrator.json")
        return said["trained"]["integrator"], said["trained"]["head"]
    if "weights" in stage.settings:  # a merge trains nothing
        return 0, 0
    from weft.adapters import load_adapter

    adapter = load_adapter(stage.folder(run) / "adapter", lazy=True)
    delta = sum(s.rank * (s.out + s.inside) for s in adapter.shapes.values())
    return delta, sum(tensor.numel() for tensor in adapter.saved.values())


def _times(epochs: int) -> str:
    return f"{epochs} epoch{'s' * (epochs > 1)}"
