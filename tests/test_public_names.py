"""What `import weft` gives: every public name, from one place, at no cost."""

from __future__ import annotations

import ast
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import weft


@pytest.mark.parametrize("name", weft.__all__)
def test_a_public_name_is_there_and_says_what_it_is(name: str) -> None:
    public = getattr(weft, name)
    assert public.__name__ == name and name in dir(weft)
    assert public.__doc__ and inspect.getdoc(public), "no docstring"
    # pydantic and dataclasses write one themselves where a class has none
    assert not public.__doc__.startswith((f"{name}(", "!!!"))


def test_type_checkers_see_what_runs() -> None:
    tree = ast.parse(Path(str(weft.__file__)).read_text("utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    seen = {
        alias.asname: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }
    table = {name: f"weft.{home}" for home, names in weft._NAMES.items() for name in names}
    assert seen == table and list(weft.__all__) == sorted(seen)


def test_no_public_name_hides_a_room_of_the_package() -> None:
    rooms = {module.name for module in pkgutil.iter_modules(weft.__path__)}
    assert not rooms & set(weft.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'weave'"):
        weft.weave  # noqa: B018


def test_importing_weft_costs_nothing() -> None:
    code = (
        "import sys, weft; dir(weft)\n"
        "print({one.partition('.')[0] for one in sys.modules} - sys.stdlib_module_names - {'__main__', 'weft'},"
        " [one for one in sys.modules if one.startswith('weft.') and one != 'weft.lazy_names'])"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(Path(weft.__file__).parents[1])},
    )
    assert done.stdout.split() == ["set()", "[]"]


def test_the_page_of_names_has_them_all() -> None:
    page = (Path(__file__).parents[1] / "docs" / "api.md").read_text("utf-8")
    listed = re.findall(r"^\| `weft\.(\w+)(\(\))?` \| .{10,} \|$", page, re.M)
    assert sorted(name for name, _ in listed) == weft.__all__
    functions = {name for name in weft.__all__ if inspect.isfunction(getattr(weft, name))}
    assert {name for name, call in listed if call} == functions


def test_whatever_takes_a_path_takes_text() -> None:
    """Type checkers then see to it that the function makes a path of it."""
    strict = [
        f"weft.{name}({parameter.name}: {parameter.annotation})"
        for name in weft.__all__
        if inspect.isfunction(public := getattr(weft, name))
        for parameter in inspect.signature(public).parameters.values()
        if "Path" in str(parameter.annotation) and "str" not in str(parameter.annotation)
    ]
    assert strict == []


def test_folders_named_by_text(tmp_path: Path) -> None:
    home = weft.mall(users=30, items=30)["home"]
    there = str(tmp_path / "popular")
    weft.save_recommender(weft.Popularity.of(weft.leave_one_out(home).train), home.items, there)
    assert isinstance(weft.open_recommender(there, home.items), weft.Popularity)
    weft.save_catalogue(weft.load_catalogue(there), str(tmp_path))
    assert len(weft.load_catalogue(str(tmp_path / "items.parquet"))) == 30
    with pytest.raises(weft.NotFoundError, match="there is no folder"):
        weft.dry_run(weft.load_recipe("weaverec-amazon"), str(tmp_path / "run"), data=there)


def test_a_folder_without_weights_is_no_part(tmp_path: Path) -> None:
    (tmp_path / "popularity.parquet").write_bytes(b"")
    with pytest.raises(weft.NotFoundError, match="it holds no weights"):
        weft.plan_merge([tmp_path, tmp_path], "linear")


def test_completion_offers_the_public_names_alone() -> None:
    assert [name for name in dir(weft) if not name.startswith("__")] == weft.__all__
