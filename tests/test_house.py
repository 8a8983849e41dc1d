"""The house as its plan has it: one word for one thing, imports that go down, files and calls that
can be taken in at once."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import weft

ROOT = Path(weft.__file__).parent
FORBIDDEN = {"said", "told", "made", "found", "how", "own", "kept", "given"}
MOST_LINES, MOST_PARAMETERS = 400, 8

# Rooms and names that are not there yet. Nothing may be added here.
WORDS_TO_DO: set[str] = set()
CALLS_TO_DO: set[str] = {"cli"}
TWICE_TO_DO: set[str] = set()


@cache
def trees() -> dict[str, ast.Module]:
    """Module's path in weft, without .py -> its syntax tree."""
    return {
        path.relative_to(ROOT).with_suffix("").as_posix(): ast.parse(path.read_text("utf-8"))
        for path in sorted(ROOT.rglob("*.py"))
    }


def room(module: str) -> str:
    return module.split("/", 1)[0]


def names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every name that a module binds: variables, parameters, attributes, functions, classes."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name, node.lineno
            case ast.arg():
                yield node.arg, node.lineno
            case ast.Name(ctx=ast.Store()):
                yield node.id, node.lineno
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr, node.lineno
            case ast.alias() if node.asname:
                yield node.asname, node.lineno
            case ast.ExceptHandler() if node.name:
                yield node.name, node.lineno


def test_no_name_is_a_word_that_names_nothing() -> None:
    wrong = [
        f"{module}.py:{line}: {name}"
        for module, tree in trees().items()
        if room(module) not in WORDS_TO_DO
        for name, line in [*names(tree), (module.rsplit("/", 1)[-1], 1)]
        if name.strip("_").casefold() in FORBIDDEN
    ]
    assert not wrong, "\n".join(wrong)


def test_no_two_classes_and_no_two_public_functions_share_a_name() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for module, tree in trees().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) or (
                isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
            ):
                places[node.name].append(f"{module}.py")
    twice = {name: where for name, where in places.items() if len(where) > 1}
    assert not {n: w for n, w in twice.items() if n not in TWICE_TO_DO and n[0] != "_"}
    assert not {n: w for n, w in twice.items() if n not in TWICE_TO_DO and n[:2] == "__"}
    assert twice.keys() >= TWICE_TO_DO, TWICE_TO_DO - twice.keys()


def test_files_can_be_read_in_one_sitting() -> None:
    long = {
        str(path): count
        for path in ROOT.rglob("*.py")
        if (count := len(path.read_text("utf-8").splitlines())) > MOST_LINES
    }
    assert not long


def test_calls_take_no_more_than_eight_arguments() -> None:
    """Commands may have as many as they have options, and pydantic and dataclasses their fields."""
    wrong = []
    for module, tree in trees().items():
        if room(module) in CALLS_TO_DO:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                taken = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                count = len([one for one in taken if one.arg not in ("self", "cls")])
                if count > MOST_PARAMETERS and not _is_command(node):
                    wrong.append(f"{module}.py:{node.lineno}: {node.name} takes {count}")
    assert not wrong, "\n".join(wrong)


def _is_command(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether every parameter is an option or argument of the command line."""
    taken = [*node.args.args, *node.args.kwonlyargs]
    return all(
        one.annotation is not None and "typer." in ast.unparse(one.annotation) for one in taken
    )


# --- imports


def imports(module: str, *, lazy: bool) -> set[str]:
    """The modules of weft that a module imports; with `lazy` inside functions too. Imports for type
    checkers alone are none."""
    return _imports(module, lazy)


@cache
def _imports(module: str, lazy: bool) -> set[str]:
    found: set[str] = set()
    todo: list[ast.AST] = [trees()[module]]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not lazy:
            continue
        if isinstance(node, ast.Import):
            found |= {_module(one.name) for one in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(_module(node.module))
            found |= {_module(f"{node.module}.{one.name}") for one in node.names}
        todo += ast.iter_child_nodes(node)
    found.discard("")
    return found - {module}


def _module(dotted: str) -> str:
    """The file of a dotted name of weft, "" where it is none."""
    path = dotted.removeprefix("weft.").replace(".", "/")
    if dotted == "weft" or not dotted.startswith("weft."):
        return ""
    return path if path in trees() else f"{path}/__init__" if f"{path}/__init__" in trees() else ""


def closure(start: str, *, lazy: bool) -> set[str]:
    """All files of weft that an import draws in, packages' own files too."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        module = todo.pop()
        if module in seen:
            continue
        seen.add(module)
        parts = module.split("/")
        todo += [
            f"{'/'.join(parts[:n])}/__init__"
            for n in range(1, len(parts))
            if f"{'/'.join(parts[:n])}/__init__" in trees()
        ]
        todo += imports(module, lazy=lazy)
    return seen


METHODS = sorted(
    module for module in trees() if module.startswith("merging/methods/") and "__" not in module
)


@pytest.mark.parametrize("method", [m for m in METHODS if not m.endswith("/registry")])
def test_a_merging_method_draws_in_few_files(method: str) -> None:
    drawn = closure(method, lazy=False)
    assert len(drawn) <= 20, sorted(drawn)


def test_a_static_merge_draws_in_few_files_and_no_recommender() -> None:
    drawn = closure("merging/merge", lazy=False)
    assert len(drawn) <= 60, sorted(drawn)
    ever = {room(one) for one in closure("merging/merge", lazy=True)}
    assert not ever & {"recommenders", "training", "learning", "systems", "evaluation"}


def test_no_import_goes_round_in_a_circle() -> None:
    graph = {module: imports(module, lazy=False) for module in trees()}
    state: dict[str, int] = {}
    circles = []

    def visit(module: str, path: list[str]) -> None:
        if state.get(module) == 2:
            return
        if state.get(module) == 1:
            circles.append(" -> ".join([*path[path.index(module) :], module]))
            return
        state[module] = 1
        for other in sorted(graph[module]):
            visit(other, [*path, module])
        state[module] = 2

    for module in graph:
        visit(module, [])
    assert not circles, "\n".join(circles)
