"""Every model of settings, manifests and results takes numbers as they are."""

from __future__ import annotations

import importlib
import math
import pkgutil
from types import UnionType
from typing import Any, Union, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

import weft
from weft.data.source import checked
from weft.errors import WeftError
from weft.settings import StrictModel
from weft.systems.recipe import Recipe


def all_models() -> list[type[BaseModel]]:
    for module in pkgutil.walk_packages(weft.__path__, "weft."):
        importlib.import_module(module.name)
    found: list[type[BaseModel]] = []
    todo: list[type[BaseModel]] = [BaseModel]
    while todo:
        one = todo.pop()
        todo.extend(one.__subclasses__())
        if one.__module__.startswith("weft."):
            found.append(one)
    return found


def leaves(annotation: Any) -> set[Any]:
    """The types that a value itself may have, not those in a list or mapping."""
    if get_origin(annotation) in (Union, UnionType):
        return {leaf for one in get_args(annotation) for leaf in leaves(one)}
    return {annotation}


def wrong_fields(model: type[BaseModel], values: dict[str, Any]) -> set[Any]:
    try:
        model.model_validate(values)
    except ValidationError as error:
        return {one["loc"][0] for one in error.errors() if one["loc"]}
    except TypeError:  # of a check of the whole model
        pass
    return set()


def test_no_model_takes_truth_values_as_numbers_or_numbers_that_are_not_finite() -> None:
    models = all_models()
    assert len(models) > 60 and all(issubclass(one, StrictModel) for one in models)
    tried = 0
    for model in models:
        for name, field in model.model_fields.items():
            kinds = leaves(field.annotation)
            if not kinds & {int, float} or kinds & {bool, Any}:
                continue
            tried += 1
            for value in (True, math.inf, math.nan):
                assert name in wrong_fields(model, {name: value}), (model, name, value)
            if int in kinds and float not in kinds:
                for text in (3.0, "3"):
                    assert name in wrong_fields(model, {name: text}), (model, name, text)
    assert tried > 80


class Nested(StrictModel):
    sizes: tuple[int, ...] = ()
    rates: dict[str, float | None] = {}
    either: float | str = 0.0
    flag: bool = False


@pytest.mark.parametrize(
    "values", [{"sizes": [1, True]}, {"rates": {"a": True}}, {"rates": {"a": math.inf}},
               {"either": True}, {"flag": 1}, {"flag": "yes"}, {"sizes": [2.0]}],
)  # fmt: skip
def test_the_same_in_lists_mappings_and_unions(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Nested.model_validate(values)


def test_a_whole_number_stands_for_a_float() -> None:
    made = Nested.model_validate({"sizes": [1, 2], "rates": {"a": 1, "b": None}, "either": 2})
    assert made.sizes == (1, 2) and made.rates == {"a": 1.0, "b": None} and made.either == 2.0
    assert isinstance(made.rates["a"], float)


def test_an_unknown_field_is_answered_with_the_one_that_it_is_a_slip_for() -> None:
    def refused(**values: Any) -> str:
        with pytest.raises(WeftError) as error:
            checked(Recipe, {"domains": ["a", "b"], **values})
        return str(error.value)

    assert "contrls: Extra inputs are not permitted; did you mean 'controls'?" in refused(
        contrls=[]
    )
    assert "did you mean 'learning_rate'?" in refused(branches={"lerning_rate": 0.1})
    assert "did you mean 'rank'?" in refused(branches={"lora": {"rnk": 4}})
    split = {"kind": "global_time", "valdation_from": "2014-01-01"}
    assert "did you mean 'validation_from'?" in refused(evaluate={"split": split})
    wrong = refused(domains=["a", {"name": "b", "filter": {}}])
    assert wrong.endswith(
        "domains.1.filter: Extra inputs are not permitted; did you mean 'filters'?"
    )
    assert "did you mean" not in refused(branches={"zzz": 1})
    assert refused(headline=["ndcg@4"]).startswith(
        "headline: "
    )  # of the whole recipe: no model's name
