"""The rows that stand in every system's tables and need none of its branches.

A recipe names them in `baselines:`. Every kind of recommender that needs no backbone is one: a new
kind is a file in `weft.recommenders` and its line in `weft.recommenders.kinds`, and nothing here.
What needs more than a domain's own interactions has its line in `BASELINES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from weft.errors import SettingError
from weft.recommenders.kinds import KINDS, recommender_class, recommender_settings
from weft.systems.plan import Plan, evaluation_label
from weft.systems.recipe import BaselineBlock
from weft.systems.rows import Cost, StudyRow
from weft.systems.stages.alone import EvaluateFitted, FitRecommender
from weft.systems.stages.evaluation import EvaluateRecommender
from weft.training.batches import seed_of


@dataclass(frozen=True)
class Baseline:
    """A row, what it is in a few words, what it costs, and its evaluation on a target."""

    row: str
    about: str
    cost: Cost
    evaluation: Callable[[Plan, str], EvaluateRecommender]


ZERO_SHOT = "zero-shot"

BASELINES: dict[str, Baseline] = {
    "popularity": Baseline(
        "popularity", "most bought first; not learned", Cost.COUNTS, Plan.popularity
    ),
    "zero_shot": Baseline(
        ZERO_SHOT, "the backbone, untrained", Cost.BACKBONE,
        lambda plan, target: plan.evaluation(target, ZERO_SHOT, None),
    ),
}  # fmt: skip
"""Name in a recipe -> baseline."""


def check_baseline(one: str | BaselineBlock) -> None:
    """A `SettingError` for what no baseline can be."""
    kind = one if isinstance(one, str) else one.recommender.kind
    if isinstance(one, str) and one in BASELINES:
        return
    if kind not in KINDS:
        names = [*BASELINES, *(name for name in KINDS if name not in BASELINES and _alone(name))]
        raise SettingError(f"'{kind}' is not known; there are {', '.join(names)}")
    if not _alone(kind):
        raise SettingError(f"a {kind} recommender needs a backbone: it is a system's row")


def _alone(kind: str) -> bool:
    return not recommender_class(kind).needs_backbone


def baseline_rows(plan: Plan, target: str) -> list[StudyRow]:
    """The rows of the recipe's baselines, in its order."""
    rows = []
    for one in plan.recipe.baselines:
        if isinstance(one, str) and one in BASELINES:
            baseline = BASELINES[one]
            stage = baseline.evaluation(plan, target)
            row = StudyRow(target, baseline.row, baseline.about, None, [stage], cost=baseline.cost)
        else:
            block = one if isinstance(one, BaselineBlock) else _block(one)
            row = _fitted_row(plan, target, block)
        rows.append(row)
    return rows


def _block(kind: str) -> BaselineBlock:
    """A kind with all of its defaults."""
    return BaselineBlock(recommender=recommender_settings({"kind": kind}))


def _fitted_row(plan: Plan, target: str, block: BaselineBlock) -> StudyRow:
    """A recommender without a backbone, fitted on the target's own interactions."""
    settings = block.recommender
    name = block.title or settings.kind.replace("_", " ")
    doc = (recommender_class(settings.kind).__doc__ or "").strip().splitlines()
    domain = plan.domains[target]
    fit = FitRecommender(
        label=f"fit {name} on {target}",
        domain=domain,
        recommender_settings=settings,
        split=plan.split,
        train=block.train,
        seed=seed_of(plan.recipe.seed, "baseline", settings.kind),
        device=plan.device,
    )
    evaluation = EvaluateFitted(
        label=evaluation_label(target, name),
        domain=domain,
        evaluate=plan.recipe.evaluate,
        show_users=plan.recipe.show_users,
        fit=fit,
    )
    about = doc[0].rstrip(".") if doc else f"a {name} recommender, without a backbone"
    return StudyRow(target, name, about, fit, [evaluation], published=True, cost=Cost.IDS)
