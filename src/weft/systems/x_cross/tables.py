"""X-Cross's report: its rows and contrasts, and the tables beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from weft.report.format import metric_label, number, seconds
from weft.report.model import ReportTable
from weft.stages.records import seconds_of
from weft.systems.baselines import baseline_rows
from weft.systems.merge_words import merge_names, merge_words
from weft.systems.rows import Cost, StudyRow
from weft.systems.stages.training import TrainBranch
from weft.systems.stages.weights import WeightsStage
from weft.systems.x_cross.recipe import BASELINE, BEST, FEATURED
from weft.systems.x_cross.stages import ChooseSources, TrainIntegrator

if TYPE_CHECKING:
    from weft.systems.x_cross.algorithm import XCross

CONTRASTS = (
    (FEATURED, BEST, "what integrating and the target's examples add to the best source as it is"),
    (FEATURED, "pooler + scorer", "beyond a new head on the best source"),
    (FEATURED, "x-lora", "against weights from the plain backbone"),
    (FEATURED, "meteora", "against a gate for each block"),
    (FEATURED, "merge", "integrating against merging the same sources"),
    (
        FEATURED,
        "x-cross, -layers",
        "what refining block by block adds to a weighted sum at the end",
    ),
)
"""(row, against, what the difference tells)."""


# --- rows


def source_row(domain: str) -> str:
    """The name of a source's row."""
    return f"source: {domain}"


def x_cross_rows(system: XCross, target: str) -> list[StudyRow]:
    """Every row of the target's table, baselines first."""
    about = "the source that was best on the hold-out, zero-shot"
    best = StudyRow(target, BEST, about, None, [system.best_source(target)])
    weighted = [*_source_rows(system, target), *_target_rows(system, target)]
    return [
        *baseline_rows(system.plan, target),
        best,
        *(
            system.weights_row(
                target, row, about, weights, published=row in (BASELINE, FEATURED), cost=cost
            )
            for row, about, weights, cost in weighted
        ),
    ]


WeightedRow = tuple[str, str, WeightsStage, Cost | None]
"""(name, what it is, the stage of its weights, what it costs)"""


def _source_rows(system: XCross, target: str) -> Iterator[WeightedRow]:
    """Adapters of domains, as they are."""
    for name in system.recipe.among(target):
        about = "that domain's adapter, zero-shot"
        yield source_row(name), about, system.source(name), Cost.BRANCH
    about = "the target's own adapter, trained as the sources are"
    yield "target, as a source", about, system.source(target), Cost.BRANCH


def _target_rows(system: XCross, target: str) -> Iterator[WeightedRow]:
    """What learns from the target's examples, X-Cross and its rivals; merges; ablations."""
    recipe = system.recipe
    size = f"up to {recipe.target.examples:,} of the target's examples"
    yield BASELINE, f"a new adapter on {size}", system.new_adapter(target), Cost.BRANCH
    for settings in (recipe.x_cross, *recipe.rivals):
        featured = settings is recipe.x_cross
        about = f"X-Cross on {size}" if featured else settings.description
        weights = system.integrated(target, settings)
        yield settings.label, about, weights, Cost.INTEGRATION
    for title, merging in zip(merge_names(recipe.merges), recipe.merges, strict=True):
        row = "merge" if title == "linear" else f"merge, {title}"
        about = f"the same sources merged ({merge_words(merging)})"
        yield row, about, system.merged(target, merging), Cost.MERGE
    if recipe.variants_on is None or target in recipe.variants_on:
        for name, changed in recipe.variants.items():
            row = f"{FEATURED}, {name}"
            about = f"X-Cross with {', '.join(f'{key} {value}' for key, value in changed.items())}"
            # An ablation answers a question; nobody would serve it.
            yield row, about, system.integrated(target, recipe.variant(name), row=row), None


# --- tables


def sources_table(
    choices: Mapping[str, ChooseSources], names: Sequence[str], run: Path
) -> ReportTable:
    """Table 2's zero-shot block: the adapter of every domain on every target's hold-out."""
    shown = ("hit@1", "mrr@10")
    holdouts = {target: choice.measured(run) for target, choice in choices.items()}
    chosen = {target: choice.names(run) for target, choice in choices.items()}
    rows = []
    for name in names:
        row = [name]
        for target, measured in holdouts.items():
            if name not in measured:
                row.append("–")
                continue
            cell = " / ".join(number(measured[name][metric]) for metric in shown)
            rank = f" ✓{chosen[target].index(name) + 1}" if name in chosen[target] else ""
            row.append(cell + rank)
        rows.append(row)
    users = ", ".join(f"{choice.users(run)} of {target}" for target, choice in choices.items())
    return ReportTable(
        title="Sources on the targets' hold-out, zero-shot",
        about=f"{' / '.join(map(metric_label, shown))} of each domain's adapter over validation "
        f"users ({users}); ✓ those that are integrated, in their order by MRR@10. On the diagonal a "
        "target's own adapter, which learned from its training users.",
        header=["adapter of", *choices],
        rows=rows,
    )


def costs_table(target: str, rows: Sequence[StudyRow], run: Path) -> ReportTable:
    """Parameters and seconds beside every row."""
    lora = next(_trained(row, run)[0] for row in rows if row.row == BASELINE)
    lines = []
    for row in rows:
        if row.baseline is not None:
            continue
        delta, head = _trained(row, run)
        took = seconds_of(row.weights, run) if row.weights is not None and delta + head else None
        lines.append(
            [
                row.row,
                f"{delta:,}",
                f"{delta / lora:.1%}",
                f"{head:,}",
                f"{delta + head:,}",
                seconds(took) if took else "–",
                seconds(seconds_of(row.evaluations[0], run) or 0.0),
            ]
        )
    return ReportTable(
        title=f"What each row costs on {target}",
        about="Numbers trained on the target: of integrator or adapter, their share of a new "
        "adapter's, pooler and scorer, both; time to train them (frozen activations kept by an "
        "earlier row are not computed again; of the last attempt, where one was cut off), and to "
        "load and score the test users. The head is no part of the published 25 %.",
        header=["row", "trained", "of lora's", "head", "in all", "training", "scoring"],
        rows=lines,
    )


def _trained(row: StudyRow, run: Path) -> tuple[int, int]:
    """How many numbers were trained on the target: of integrator or adapter, and of the head.

    Sources were trained on their domains, and a merge trains nothing.
    """
    if isinstance(row.weights, TrainIntegrator):
        facts = row.weights.facts(run)
        return facts.integrator_numbers, facts.head_numbers
    if isinstance(row.weights, TrainBranch) and not row.row.startswith(source_row("")):
        adapter = row.weights.adapter(run)
        delta = sum(shape.rank * (shape.out + shape.inside) for shape in adapter.shapes.values())
        return delta, sum(tensor.numel() for tensor in adapter.saved.values())
    return 0, 0
