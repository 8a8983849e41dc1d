"""`weft recipes`: what comes with weft, to run as it is or to begin from."""

from __future__ import annotations

from typing import Annotated

import typer

from weft.cli.out import echo


def recipes_command(
    name: Annotated[str | None, typer.Argument(help="Print this recipe: its YAML.")] = None,
) -> None:
    """List the recipes that come with weft, or print one.

    `weft run NAME` runs one as it is; `weft recipes NAME > mine.yaml` begins a recipe of your own.
    """
    from weft.errors import NotFoundError
    from weft.recipes import packaged_recipes

    recipes = packaged_recipes()
    if name is not None:
        chosen = next((one for one in recipes if one.name == name), None)
        if chosen is None:
            raise NotFoundError(
                f"there is no recipe '{name}'; there are {', '.join(one.name for one in recipes)}"
            )
        echo(chosen.path.read_text("utf-8").rstrip("\n"))
        return
    for recipe in recipes:
        echo(recipe.name)
        echo(f"  {recipe.about.partition('. ')[0].rstrip('.')}.")
        for command in recipe.commands:
            echo(f"  $ {command}")
    echo(
        "\nDATA is the folder that holds the domains' folders; `weft data ingest` makes them."
        "\n`weft recipes NAME` prints a recipe."
    )
