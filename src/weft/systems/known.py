"""The systems there are: which recipe each reads, and what it makes of it."""

from __future__ import annotations

from pathlib import Path

from weft.errors import WeftError
from weft.systems.mergerec_recipe import MergeRecRecipe
from weft.systems.mergerec_study import MergeRecStudy
from weft.systems.plan import Plan
from weft.systems.recipe import Recipe, Study, read_settings, read_yaml
from weft.systems.study import System
from weft.systems.weave_study import WeaveStudy
from weft.systems.x_cross_recipe import XCrossRecipe
from weft.systems.x_cross_study import XCrossStudy

RECIPES: dict[str, type[Study]] = {
    "weaverec": Recipe,
    "x_cross": XCrossRecipe,
    "mergerec": MergeRecRecipe,
}


def load_recipe(path: Path) -> Study:
    """Read a recipe of any system; what is wrong with it is one sentence that names file and
    field."""
    system = read_yaml(path).get("system", "weaverec")
    if not isinstance(system, str) or system not in RECIPES:
        raise WeftError(f"{path}: system: '{system}' is not known; there are {', '.join(RECIPES)}")
    return read_settings(path, RECIPES[system])


def system_of(plan: Plan) -> System:
    """The system that a plan's recipe is of."""
    if isinstance(plan.recipe, XCrossRecipe):
        return XCrossStudy(plan, plan.recipe)
    if isinstance(plan.recipe, MergeRecRecipe):
        return MergeRecStudy(plan, plan.recipe)
    assert isinstance(plan.recipe, Recipe)
    return WeaveStudy(plan, plan.recipe)
