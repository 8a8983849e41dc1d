"""A method is one file and one line: whatever lists, reads or uses methods then knows it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
import yaml
from pydantic import Field
from random_adapters import adapter
from torch import Tensor
from typer.testing import CliRunner

from weft.adapters import Adapter
from weft.cli.main import app
from weft.merging.engine.method import Block, Known
from weft.merging.merge import merge
from weft.merging.mergekit.forms import MergekitForm, Options
from weft.merging.mergekit.methods import mergekit_methods
from weft.merging.mergekit.parameters import ParameterReader
from weft.merging.mergekit.recipe import translate
from weft.merging.methods import registry
from weft.merging.methods.base import MergeMethod
from weft.merging.methods.describe import describe_methods
from weft.merging.methods.registry import make_method


class Largest(MergeMethod):
    """Take each entry from the part where it is largest.

    θ = scale · max_k θ_k.
    """

    name: ClassVar[str] = "largest"
    source: ClassVar[str] = "this test"
    relative: ClassVar[bool] = True

    scale: float = Field(default=1.0, gt=0, description="factor on the result")

    @classmethod
    def mergekit_forms(cls) -> Mapping[str, MergekitForm]:
        return {"largest_of": MergekitForm("origin", _from_mergekit, ("lambda",))}

    def combine(self, block: Block, known: Known) -> Tensor:
        return torch.stack(block.parts).amax(0).mul_(self.scale)


def _from_mergekit(reader: ParameterReader) -> tuple[dict[str, Any], Options]:
    return {"name": "largest", "scale": reader.option("lambda", 1.0)}, {}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The file, and its line."""
    module = ModuleType("weft.merging.methods.largest")
    module.Largest = Largest  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(registry._CLASSES, "largest", "largest.Largest")  # type: ignore[arg-type]
    mergekit_methods.cache_clear()
    yield
    mergekit_methods.cache_clear()


def test_it_is_listed_with_its_options_and_their_ranges() -> None:
    doc = describe_methods()[-1]
    assert (doc.name, doc.for_adapters, doc.needs_base) == ("largest", True, False)
    assert doc.options == [("scale", "number", "1.0", "factor on the result")]
    shown = CliRunner().invoke(app, ["methods", "largest"]).output
    assert "Take each entry from the part where it is largest." in shown and "--scale" in shown


def test_it_merges_tensors_and_adapters_alone_and_after_another_method() -> None:
    one, other, base = ({"w": torch.tensor(row)} for row in ([1.0, 5.0], [3.0, 2.0], [1.0, 1.0]))
    merged = merge([one, other], {"name": "largest", "scale": 2.0}, base=base)
    assert isinstance(merged, dict) and merged["w"].tolist() == [1 + 2 * 2, 1 + 2 * 4]
    thinned = merge([one, other], {"name": "dare", "drop_rate": 0, "then": "largest"}, base=base)
    assert isinstance(thinned, dict) and thinned["w"].tolist() == [3.0, 5.0]
    parts = [adapter(1), adapter(2)]
    both = merge(parts, "largest")
    assert isinstance(both, Adapter)
    expected = torch.maximum(*(part.factors["query"].delta() for part in parts))
    torch.testing.assert_close(both.factors["query"].delta(), expected)


def test_recipes_and_mergekits_files_name_it() -> None:
    text = """
        merge_method: largest_of
        base_model: base
        models: [{model: a}, {model: b}]
        parameters: {lambda: 0.5}
    """
    recipe = translate(yaml.safe_load(text), print)
    assert make_method(recipe.method) == Largest(scale=0.5)
    assert recipe.base == "base" and [part.path for part in recipe.parts] == ["a", "b"]
