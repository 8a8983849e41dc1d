"""The systems there are: which recipe each reads, and what it makes of it."""

from __future__ import annotations

from pathlib import Path

from weft.artifacts.yaml_documents import read_mapping
from weft.errors import WeftError
from weft.stages.stage import Stage
from weft.systems.measured import Measured
from weft.systems.mergerec.recipe import MergeRecRecipe
from weft.systems.mergerec.study import MergeRecStudy
from weft.systems.plan import Plan, Sketch
from weft.systems.recipe import Recipe, Study, read_settings
from weft.systems.rows import check_rows
from weft.systems.system import System
from weft.systems.weaverec.tables import WeaveStudy
from weft.systems.x_cross.recipe import XCrossRecipe
from weft.systems.x_cross.tables import XCrossStudy

RECIPES: dict[str, type[Study]] = {
    "weaverec": Recipe,
    "x_cross": XCrossRecipe,
    "mergerec": MergeRecRecipe,
}


def load_recipe(path: Path) -> Study:
    """Read a recipe of any system; what is wrong with it, or can't be planned, is one sentence
    that names file and field."""
    system = read_mapping(path).get("system", "weaverec")
    if not isinstance(system, str) or system not in RECIPES:
        raise WeftError(f"{path}: system: '{system}' is not known; there are {', '.join(RECIPES)}")
    recipe = read_settings(path, RECIPES[system])
    try:
        check_recipe(recipe)
    except WeftError as error:
        raise WeftError(f"{path}: {error}") from None
    return recipe


def check_recipe(recipe: Study) -> None:
    """Plan the whole study, without data or a backbone: a `WeftError` for what could not end well
    (rows of one name, a merge of parts that can't be merged so), before anything is trained."""
    plan_stages(Sketch(recipe))


def plan_stages(plan: Plan) -> tuple[System, list[Measured], list[Stage]]:
    """(the system of a plan, every row of its tables, every stage that is asked for); see
    `check_recipe`."""
    system = system_of(plan)
    measured = system.measured()
    check_rows(measured)
    stages = [*(stage for one in measured for stage in one.evaluations), *system.further()]
    return system, measured, stages


def system_of(plan: Plan) -> System:
    """The system that a plan's recipe is of."""
    if isinstance(plan.recipe, XCrossRecipe):
        return XCrossStudy(plan, plan.recipe)
    if isinstance(plan.recipe, MergeRecRecipe):
        return MergeRecStudy(plan, plan.recipe)
    assert isinstance(plan.recipe, Recipe)
    return WeaveStudy(plan, plan.recipe)
