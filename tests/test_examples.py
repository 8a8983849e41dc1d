"""Examples in docstrings: they run, and the public calls that are used most have one."""

from __future__ import annotations

import doctest
import importlib
import inspect
from pathlib import Path

import pytest

import weft

SOURCE = Path(str(weft.__file__)).parent
MODULES = sorted(
    ".".join(["weft", *path.relative_to(SOURCE).with_suffix("").parts]).removesuffix(".__init__")
    for path in SOURCE.rglob("*.py")
    if ">>>" in path.read_text("utf-8")
)
WITH_EXAMPLE = [
    "Domain", "Filters", "PrefixTree.spans", "Result", "apply_filters", "assemble", "clean_text",
    "compare", "describe_methods", "parse_split", "draw_candidates", "evaluate", "hit", "item_texts",
    "leave_one_out", "load_backbone", "load_domain", "load_recipe", "load_recommender", "make_method",
    "make_split", "mall", "merge", "merge_adapters", "ndcg", "pad", "sample_train", "save_recommender",
    "target_places", "tokenize_items", "train", "weights",
]  # fmt: skip


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = doctest.testmod(
        importlib.import_module(module),
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE,
        raise_on_error=False,
    )
    assert outcome.attempted and not outcome.failed


@pytest.mark.parametrize("name", WITH_EXAMPLE)
def test_what_is_used_most_has_an_example(name: str) -> None:
    public, _, member = name.partition(".")
    documented = getattr(weft, public)
    documented = getattr(documented, member) if member else documented
    assert ">>>" in (inspect.getdoc(documented) or ""), f"{name} has no example"
    assert inspect.getmodule(documented).__name__ in MODULES  # type: ignore[union-attr]
