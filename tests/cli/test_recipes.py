"""`weft recipes`: the recipes in the package are listed, printed, read and run by their names."""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import weft
from weft.cli.main import app
from weft.errors import NotFoundError, WeftError
from weft.recipes import PackagedRecipe, packaged_recipes

SOURCE = Path(str(weft.__file__)).parent
RECIPES = packaged_recipes()


def ids(recipe: PackagedRecipe) -> str:
    return recipe.name


@pytest.mark.parametrize("recipe", RECIPES, ids=ids)
def test_a_recipe_is_read_and_begins_with_the_command_that_runs_it(recipe: PackagedRecipe) -> None:
    backbone = recipe.path.parent.name == "backbones"
    if backbone:
        assert weft.load_pretrain_recipe(recipe.name).catalogues
    else:
        assert len(weft.load_recipe(recipe.name).domains) >= 2
    assert recipe.path.read_text("utf-8").startswith(f"# {recipe.commands[0]}\n") and recipe.about
    last = shlex.split(recipe.commands[-1])
    command = ["weft", "backbone", "pretrain"] if backbone else ["weft", "run"]
    assert last == ["weft", "demo"] or last[: len(command) + 1] == [*command, recipe.name]
    for line in recipe.commands:
        _, *words = shlex.split(line)
        get_command(app).make_context("weft", words)  # the command's name and options exist
        assert words[0] != "backbone" or words[2] in {one.name for one in RECIPES}


def test_the_list_has_every_name_and_command() -> None:
    done = CliRunner().invoke(app, ["recipes"])
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    for recipe in RECIPES:
        place = lines.index(recipe.name)
        assert lines[place + 1].strip().rstrip(".") in recipe.about
        assert lines[place + 2].strip() == f"$ {recipe.commands[0]}"


def test_a_recipe_is_printed_as_it_is(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["recipes", "weaverec-amazon"])
    assert done.stdout == (SOURCE / "recipes" / "weaverec-amazon.yaml").read_text("utf-8")
    mine = tmp_path / "mine.yaml"
    mine.write_text(done.stdout)
    assert weft.load_recipe(mine) == weft.load_recipe("weaverec-amazon")


def test_a_file_goes_before_a_packaged_recipe_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x-cross-amazon").mkdir()  # an old run's folder is no recipe
    assert weft.load_recipe("x-cross-amazon").system == "x_cross"
    (tmp_path / "demo").write_text("domains: [books, films]\n")
    assert [one.name for one in weft.load_recipe("demo").domains] == ["books", "films"]


def test_a_name_that_is_neither_is_refused() -> None:
    with pytest.raises(
        NotFoundError, match="no file 'shops', and no recipe of that name; `weft re"
    ):
        weft.load_recipe("shops")
    with pytest.raises(NotFoundError, match="there is no recipe 'shops'; there are demo, mergerec"):
        CliRunner().invoke(app, ["recipes", "shops"], catch_exceptions=False)


def test_run_takes_a_name_of_the_list(tmp_path: Path) -> None:
    with pytest.raises(weft.WeftError, match="domain 'amazon-beauty-2014': there is no folder"):
        CliRunner().invoke(
            app, ["run", "weaverec-amazon", "--data", str(tmp_path), "--dry-run"],
            catch_exceptions=False,
        )  # fmt: skip


def test_every_file_beside_the_code_is_in_the_wheel() -> None:
    settings = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text("utf-8"))
    globs = settings["tool"]["setuptools"]["package-data"]["weft"]
    packaged = {file for glob in globs for file in SOURCE.glob(glob)}
    files = {
        file for file in SOURCE.rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")
    }
    assert files == packaged


@pytest.mark.parametrize(
    ("text", "command", "words"),
    [
        ("domains: [a, b]\nmerge: {method: ties}", "merge", "the recipe of a study: `weft run`"),
        ("catalogues: [a]", "run", "the recipe of a backbone: `weft backbone pretrain`"),
        ("domains: [a, b]", "backbone pretrain", "the recipe of a study: `weft run`"),
        ("merge_method: ties\nmodels: []", "run", "a mergekit file: `weft merge`"),
        ("parts: [a, b]", "run", "a merge recipe: `weft merge`"),
        ("merge: {method: ties}\nversions: {}", "run", "the manifest of a merge: `weft merge`"),
        ("domains: [a]\nweights_hash: 'a'", "merge", "a manifest and no recipe"),
        ("backbone: {name: a, fingerprint: b}", "run", "a manifest and no recipe"),
    ],
)
def test_a_file_for_another_command_is_told_from_a_wrong_one(
    tmp_path: Path, text: str, command: str, words: str
) -> None:
    file, out = tmp_path / "file.yaml", tmp_path / "out"
    file.write_text(text, "utf-8")
    done = CliRunner().invoke(app, [*command.split(), str(file), "--out", str(out)])
    assert isinstance(done.exception, WeftError), done.output
    assert f"{file}: this is {words}" in str(done.exception) and not out.exists()


def test_a_misspelt_name_of_a_recipe_is_answered_with_the_one_that_is_meant() -> None:
    with pytest.raises(NotFoundError, match="did you mean 'weaverec-amazon'"):
        weft.load_recipe("weaverec-amazn")
