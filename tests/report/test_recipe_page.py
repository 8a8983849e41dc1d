"""docs/recipes.md names every field of a recipe with its default, and its examples are recipes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from weft.learning.settings import CollaborativeSettings
from weft.recommenders.text.bi_encoder import BiEncoderSettings
from weft.recommenders.text.listwise import ListwiseSettings
from weft.recommenders.text.yes_no import YesNoSettings
from weft.settings import validate
from weft.systems.recipe import DomainSpec, Mall
from weft.systems.weaverec.recipe import (
    MergeSpec,
    WeaveBranches,
    WeaveEvaluation,
    WeaveRecRecipe,
)
from weft.text.prompt import PromptSettings

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text("utf-8")
BLOCKS: dict[str, type[BaseModel]] = {
    "The recipe": WeaveRecRecipe,
    "`domains`": DomainSpec,
    "`mall`": Mall,
    "`recommender`": BiEncoderSettings,
    "`recommender`, listwise": ListwiseSettings,
    "`recommender`, yes_no": YesNoSettings,
    "`prompt`": PromptSettings,
    "`branches`": WeaveBranches,
    "`merge`": MergeSpec,
    "`evaluate`": WeaveEvaluation,
    "`collaborative`": CollaborativeSettings,
}


def rows(heading: str) -> dict[str, str]:
    """Field -> default, of the table under a heading."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", section, re.M))


@pytest.mark.parametrize("heading", BLOCKS)
def test_every_field_is_there_with_its_default(heading: str) -> None:
    fields, said = BLOCKS[heading].model_fields, rows(heading)
    assert list(said) and set(said) == set(fields)
    for name, default in said.items():
        if not (written := re.fullmatch(r"`(.*)`", default)):
            continue  # said in words
        value: Any = fields[name].default
        value = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        value = list(value) if isinstance(value, tuple) else value
        assert yaml.safe_load(written[1]) == value, name


def test_the_examples_are_recipes() -> None:
    examples = [yaml.safe_load(one) for one in re.findall(r"```yaml\n(.*?)```", PAGE, re.S)]
    assert len(examples) == 4
    for example in examples:
        if len(example["domains"]) > 1:
            validate(WeaveRecRecipe, example)
