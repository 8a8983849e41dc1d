"""Recipes that come with weft: studies for `weft run`, and backbones for `weft backbone pretrain`.

Each begins with comment lines of the commands that run it, then a comment on what it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from weft.errors import NotFoundError

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class PackagedRecipe:
    """A recipe in the package: `commands` in the order to run them, `about` one paragraph."""

    name: str
    path: Path
    commands: tuple[str, ...]
    about: str


def packaged_recipes() -> list[PackagedRecipe]:
    """All of them by name, studies first."""
    files = [*sorted(FOLDER.glob("*.yaml")), *sorted(FOLDER.glob("backbones/*.yaml"))]
    return [_read(file) for file in files]


def recipe_file(recipe: str | Path) -> Path:
    """The file that `recipe` names: itself where there is one, else the packaged recipe's.

    >>> recipe_file("weaverec-amazon").name
    'weaverec-amazon.yaml'
    """
    path = Path(recipe)
    named = {one.name: one.path for one in packaged_recipes()}
    if path.is_file() or path.suffix or len(path.parts) > 1:
        return path
    if path.name not in named:
        near = get_close_matches(path.name, named, 1, 0.75)
        meant = f"; did you mean '{near[0]}'?" if near else "; `weft recipes` lists them"
        raise NotFoundError(f"there is no file '{recipe}', and no recipe of that name{meant}")
    return named[path.name]


def _read(file: Path) -> PackagedRecipe:
    comments = []
    for line in file.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            break
        comments.append(line.removeprefix("#").strip())
    commands = tuple(line for line in comments if line.startswith("weft "))
    about = " ".join(line for line in comments if line and line not in commands)
    return PackagedRecipe(file.stem, file, commands, about)
