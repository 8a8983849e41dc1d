"""The terminal as a person meets it: real processes, exit codes, one sentence for an error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def weft(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "weft.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def refused(*arguments: str | Path) -> str:
    """Run a command that must be refused; returns its one sentence."""
    done = weft(*arguments)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    return done.stderr


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys; sys.argv = ['weft', '--help']\n"
        "from weft.cli.main import app\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'polars', 'numpy', 'scipy', 'plotly', 'accelerate',"
        " 'pydantic', 'rich.progress'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    for verb in ("demo", "run", "data", "recommend", "evaluate", "merge", "compare", "report"):
        assert verb in done.stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("domains: [a, b]\nbranch: {}\n", "branch: Extra inputs are not permitted"),
        ("domains: [a]\n", "domains: Tuple should have at least 2 items"),
        ("domains: [a, a]\n", "every domain needs a name of its own"),
        ("domains: [a, b]\nbranches: {learning_rate: 0}\n", "branches.learning_rate"),
        ("domains: [a, b\n", "is not valid YAML"),
        ("just words\n", "holds no mapping of settings"),
        ("domains: [a, b]\n", "say where with --data"),
        (
            "domains: [a, b]\nmall: {users: 40, items: 40}\nbackbone: no/such\n",
            "backbone 'no/such'",
        ),
    ],
)
def test_a_bad_recipe_is_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    said = refused("run", file, "--out", tmp_path / "out")
    assert words in said and len(said.strip().splitlines()) == 1
    assert not list(tmp_path.glob("out/stages/*"))


def test_a_recipe_or_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "no.yaml does not exist" in refused("run", tmp_path / "no.yaml")
    model = tmp_path / "model"
    assert f"{model} is not an adapter folder" in refused(
        "recommend", "--model", model, "--history", "x"
    )
    assert "is not an adapter folder" in refused("merge", model, "--out", tmp_path / "merged")
    assert "is not an adapter folder" in refused("inspect", model)
    recipe = tmp_path / "r.yaml"
    recipe.write_text("domains: [a, b]\n")
    said = refused("run", recipe, "--data", tmp_path, "--out", tmp_path / "out")
    assert "domain 'a': there is no folder" in said


def test_the_committed_recipes_are_valid() -> None:
    from weft.systems.recipe import load_recipe

    recipes = [*REPOSITORY.glob("recipes/*.yaml"), *REPOSITORY.glob("src/weft/recipes/*.yaml")]
    assert len(recipes) >= 3
    for recipe in recipes:
        assert len(load_recipe(recipe).domains) >= 2


def test_version_and_unknown_command() -> None:
    assert weft("--version").stdout.startswith("weft ")
    assert weft("weave").returncode == 2
