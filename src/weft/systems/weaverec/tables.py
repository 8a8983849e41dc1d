"""WeaveRec's report: its rows, contrasts, and what each branch is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from weft.errors import SettingError
from weft.report.format import count_words
from weft.report.model import Branch
from weft.systems.baselines import ZERO_SHOT, baseline_rows
from weft.systems.merge_words import merge_names, merge_words
from weft.systems.plan import EvaluationOptions
from weft.systems.rows import Cost, StudyRow, WeightRows
from weft.systems.stages.training import TrainingStage, branch_seed
from weft.systems.stages.weights import WeightsStage
from weft.systems.weaverec.recipe import WeaveRecRecipe

if TYPE_CHECKING:
    from weft.systems.weaverec.algorithm import WeaveRec

FEATURED, BASELINE = "weaverec", "target-only"

CONTRASTS = (
    (FEATURED, "soup", "what other domains and the hybrids' longer training add beyond averaging"),
    (FEATURED, "soup, longer", "what other domains add beyond averaging and training longer"),
    (FEATURED, "target-only, longer", "beyond training as long as a hybrid"),
    (FEATURED, "all-data", "merging adapters against mixing data"),
    (FEATURED, "naive merge", "hybrid sources against pure ones"),
)
"""(row, against, what the difference tells): the questions that the controls are there for."""

MORE_SEEDS = (BASELINE, FEATURED, "soup", "soup, longer")
"""The rows that are repeated with more seeds: what the claim rests on."""


def cost_of(row: str) -> Cost | None:
    """What a row costs. Merges with pure sources, a source alone, the other space and pairs are
    there to answer questions."""
    if row == BASELINE:
        return Cost.BRANCH
    if row in ("target-only, longer", "all-data") or row.startswith("hybrid: "):
        return Cost.LONGER
    if row in (FEATURED, "soup", "soup, longer") or row.startswith("hybrids, "):
        return Cost.MERGE
    return None


# --- rows of weights


def weaverec_weight_rows(system: WeaveRec, target: str) -> WeightRows:
    """Every row of the target's table that has weights: the woven recommender and its controls."""
    recipe, merge, sources = system.recipe, system.recipe.merge, system.sources(target)
    branch = system.target_branch(target)
    rows: dict[str, tuple[str, WeightsStage]] = {
        BASELINE: ("one adapter, trained on the target", branch),
        FEATURED: (
            f"target and hybrid adapters merged ({merge_words(merge)})",
            system.weave(target),
        ),
    }
    rows |= _soups(system, target)
    if "matched" in recipe.controls:
        about = "twice the epochs: as many steps as a hybrid gets"
        rows["target-only, longer"] = (about, system.target_branch(target, longer=2))
    if "all_data" in recipe.controls:
        everything = system.plan.branch(list(system.plan.domains), system.seed)
        rows["all-data"] = ("one adapter on all domains' examples", everything)
    if "naive" in recipe.controls:
        about = "target and pure-source adapters merged"
        rows["naive merge"] = (about, system.merge(target, system.pure(target), merge))
    if "factors" in recipe.controls:
        other = "factors" if merge.space == "delta" else "delta"
        changed = merge.model_copy(update={"space": other})
        rows[f"weaverec ({other})"] = (
            f"the same adapters merged in {other} space",
            system.merge(target, system.hybrids(target), changed),
        )
    rows |= _beside(system, target)
    for source in sources if "pairs" in recipe.controls else []:
        pair = [branch, system.target_branch(source)]
        rows[f"pair: {source}"] = ("target's and one pure source's adapters merged",
                                   system.merge(target, pair, merge, [source]))  # fmt: skip
    for source in sources if "sources" in recipe.controls else []:
        rows[f"source: {source}"] = ("adapter of that domain alone, used on the target",
                                     system.target_branch(source))  # fmt: skip
    for source in sources if "hybrids" in recipe.controls else []:
        rows[f"hybrid: {source}"] = ("one hybrid on its own",
                                     system.hybrid_branch(target, source))  # fmt: skip
    return rows


def _soups(system: WeaveRec, target: str) -> WeightRows:
    """What merging does without other domains: branches of the target alone."""
    controls, merge = system.recipe.controls, system.recipe.merge
    others = range(len(system.sources(target)))
    branch = system.target_branch(target)
    rows: dict[str, tuple[str, WeightsStage]] = {}
    if "soup" in controls:
        twins = [branch, *(system.target_branch(target, twin=n + 1) for n in others)]
        about = f"{len(twins)} target-only adapters that differ in seed, merged: averaging alone"
        rows["soup"] = (about, system.merge(target, twins, merge))
    if "soup_longer" in controls:
        long = [system.target_branch(target, longer=2, twin=n) for n in others]
        about = (
            f"target-only and {len(long)} target-only of twice the steps, merged: averaging"
            " and a hybrid's training length without other domains"
        )
        rows["soup, longer"] = (about, system.merge(target, [branch, *long], merge))
    return rows


def _beside(system: WeaveRec, target: str) -> WeightRows:
    """Other merging methods on the same branches: hybrids, and with `naive` pure sources."""
    recipe = system.recipe
    rows: dict[str, tuple[str, WeightsStage]] = {}
    beside = recipe.merge.beside
    for title, one in zip(merge_names(beside), beside, strict=True):
        kinds = [("hybrids", "target and hybrid", system.hybrids(target))]
        if "naive" in recipe.controls:
            kinds.append(("naive", "target and pure-source", system.pure(target)))
        for kind, what, parts in kinds:
            name = f"{kind}, {title}"
            if name in rows:
                raise SettingError(
                    f"merge.beside: two rows would be called '{name}': the same merge is there "
                    "twice"
                )
            about = f"{what} adapters merged ({merge_words(one)})"
            rows[name] = (about, system.merge(target, parts, one))
    return rows


# --- the study


def weaverec_rows(system: WeaveRec) -> list[StudyRow]:
    """Every row of every target's table, baselines first."""
    recipe, plan = system.recipe, system.plan
    rows: list[StudyRow] = []
    for spec in recipe.domains:
        if not spec.target:
            continue
        target = spec.name
        for row in baseline_rows(plan, target):
            rows.append(row)
            if row.row == ZERO_SHOT:
                rows.extend(_ranked_otherwise(system, target, ZERO_SHOT, None))
        others = [
            weaverec_weight_rows(replace(system, other_seed=seed), target) for seed in spec.seeds
        ]
        for name, (about, weights) in weaverec_weight_rows(system, target).items():
            repeated = [one[name][1] for one in others if name in MORE_SEEDS]
            seeds = spec.seeds if repeated else ()
            evaluations = [
                plan.evaluation(target, name, stage, EvaluationOptions(seed=seed))
                for seed, stage in zip((recipe.seed, *seeds), [weights, *repeated], strict=True)
            ]
            published = name in (BASELINE, FEATURED)
            cost = cost_of(name)
            rows.append(
                StudyRow(target, name, about, weights, [*evaluations], seeds, published, cost)
            )
            if name == FEATURED:
                rows.extend(_ranked_otherwise(system, target, name, weights))
    return rows


def _ranked_otherwise(
    system: WeaveRec, target: str, row: str, weights: WeightsStage | None
) -> Iterator[StudyRow]:
    """A row for each of the recipe's `rankers`: the same weights, asked in another way.

    One of another kind asks the backbone only: adapters were trained on the recipe's own prompt.
    """
    recipe, plan = system.recipe, system.plan
    for changes in recipe.rankers:
        recommender = recipe.ranker(changes)
        if weights is not None and recommender.kind != recipe.recommender.kind:
            continue
        words = ", ".join(
            k if v is True else str(v) if k in ("kind", "ranker") else f"{k} {v}"
            for k, v in changes.items()
        )
        name = f"{row} ({words})"
        stage = plan.evaluation(target, name, weights, EvaluationOptions(recommender=recommender))
        yield StudyRow(target, name, f"the same weights, asked {words}", weights, [stage])


def weaverec_branch(recipe: WeaveRecRecipe, stage: TrainingStage) -> Branch:
    """What kind of branch it is; target-only and hybrids of the recipe's own seed are shown."""
    domains = stage.domain_names
    seeds = {recipe.seed, *(seed for spec in recipe.domains for seed in spec.seeds)}
    if stage.seed not in {branch_seed(seed, domains) for seed in seeds}:
        return Branch(domains=domains, kind="soup's twins", shown=False)
    if stage.train.epochs > recipe.branches.epochs:
        kind = f"{BASELINE}, longer"
    else:
        kind = {1: BASELINE, 2: "hybrid"}.get(len(domains), "all-data")
    if stage.seed != branch_seed(recipe.seed, domains):
        return Branch(domains=domains, kind=f"{kind}, more seeds", shown=False)
    return Branch(domains=domains, kind=kind, shown=kind in (BASELINE, "hybrid"))


def weaverec_training_words(recipe: WeaveRecRecipe) -> str:
    """The training in half a sentence."""
    branches = recipe.branches
    return (
        f"{branches.examples:,} examples per domain × {count_words(branches.epochs, 'epoch')}, "
        f"batch {branches.batch}, "
        f"LoRA rank {branches.lora.rank}"
    )


def small_settings_note(recipe: WeaveRecRecipe) -> list[str]:
    """Which settings are small by default, for who reads the numbers."""
    small = recipe.small_defaults()
    if not small:
        return []
    words = ", ".join(small)
    note = f"Small by default, so that a run ends soon: {words}. More of each, set in the recipe, "
    return [note + "gives better recommenders and surer numbers."]
