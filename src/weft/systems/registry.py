"""The systems there are. One more is a package and a line of `SYSTEMS`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from weft.errors import SettingError, located
from weft.recipes import recipe_file
from weft.recipes.purposes import STUDY, check_purpose
from weft.settings import as_written
from weft.settings.files import read_mapping, read_settings
from weft.stages.stage import Stage
from weft.systems.plan import Plan, Sketch
from weft.systems.recipe import StudyRecipe
from weft.systems.rows import StudyRow, check_rows
from weft.systems.system import System

SYSTEMS = {
    "weaverec": "weft.systems.weaverec.algorithm:WeaveRec",
    "x_cross": "weft.systems.x_cross.algorithm:XCross",
    "mergerec": "weft.systems.mergerec.algorithm:MergeRec",
}
"""What a recipe says in `system` -> module and class, imported when one asks for it."""


def system_class(name: object) -> type[System[Any]]:
    """The class of a system, by its name in recipes."""
    if not isinstance(name, str) or name not in SYSTEMS:
        raise SettingError(
            f"system: {as_written(name)} is not known; there are {', '.join(SYSTEMS)}"
        )
    module, attribute = SYSTEMS[name].split(":")
    system: type[System[Any]] = getattr(import_module(module), attribute)
    return system


def load_recipe(path: Path | str) -> StudyRecipe:
    """Read a recipe of any system: a file, or the name of one that comes with weft.

    What is wrong with it, or can't be planned, is one sentence that names file and field.

    >>> load_recipe("weaverec-amazon").seed
    7
    """
    path = recipe_file(path)
    values = read_mapping(path)
    with located(path):
        check_purpose(values, STUDY)
        recipe_class = system_class(values.get("system", "weaverec")).recipe_class
    recipe = read_settings(path, recipe_class, {"name": path.stem})
    with located(path):
        check_recipe(recipe)
    return recipe


def check_recipe(recipe: StudyRecipe) -> None:
    """Plan the whole study, without data or a backbone: a `WeftError` for what could not end well
    (rows of one name, a merge of parts that can't be merged so), before anything is trained."""
    plan_stages(Sketch(recipe))


def plan_stages(plan: Plan) -> tuple[System[Any], list[StudyRow], list[Stage]]:
    """(the system of a plan, every row of its tables, every stage that is asked for); see
    `check_recipe`."""
    system = system_of(plan)
    rows = system.rows()
    check_rows(rows)
    stages = [*(stage for one in rows for stage in one.evaluations), *system.further()]
    return system, rows, stages


def system_of(plan: Plan) -> System[Any]:
    """The system that a plan's recipe is of."""
    return system_class(plan.recipe.system).of(plan)
