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
from weft.errors import SettingError, WeftError
from weft.recommenders.kinds import KINDS
from weft.settings import StrictModel, validate
from weft.systems.weaverec.recipe import WeaveRecRecipe


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


def test_no_field_is_held_to_a_pattern_that_its_message_would_show() -> None:
    for model in all_models():
        for name, field in model.model_fields.items():
            assert "pattern=" not in repr(field.metadata), (model, name)


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
            validate(WeaveRecRecipe, {"domains": ["a", "b"], **values})
        return str(error.value)

    assert "contrls: not known; did you mean 'controls'?" in refused(contrls=[])
    assert "did you mean 'learning_rate'?" in refused(branches={"lerning_rate": 0.1})
    assert "did you mean 'rank'?" in refused(branches={"lora": {"rnk": 4}})
    split = {"kind": "global_time", "valdation_from": "2014-01-01"}
    assert "did you mean 'validation_from'?" in refused(evaluate={"split": split})
    wrong = refused(domains=["a", {"name": "b", "filter": {}}])
    assert wrong.endswith("domains.1.filter: not known; did you mean 'filters'?")
    assert "did you mean" not in refused(branches={"zzz": 1})
    assert refused(headline=["ndcg@4"]).startswith(
        "headline: "
    )  # of the whole recipe: no model's name


NO_SPLIT = (
    "is no split; write leave_one_out, by_user:3,1,1 or global_time:FROM,TEST, "
    "or a block with its kind"
)
WEIGHTS = "'uniform', 'validation', 'adamerging' or 'collaborative'"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"branches": {"epochs": "x"}}, "branches.epochs: must be a whole number, not 'x'"),
        ({"seed": None}, "seed: must be a whole number, not null"),
        ({"evaluate": {"full": 1}}, "evaluate.full: must be true or false, not 1"),
        ({"mall": {"users": 1}}, "mall.users: must be at least 4, not 1"),
        ({"branches": 3}, "branches: must be a block of settings, not 3"),
        ({"domains": "books"}, "domains: must be a list, not 'books'"),
        ({"domains": ["books"]}, "domains: needs at least 2 entries"),
        ({"domains": ["books", 3]}, "domains.1: must be a block of settings, not 3"),
        (
            {"merge": {"weights": "equal"}},
            f"merge.weights: must be {WEIGHTS} or a list, not 'equal'",
        ),
        (
            {"domains": ["a", {"name": "../b"}]},
            (
                "domains.1.name: '../b' is no name of a folder: use letters, digits, '_', '.' and '-', "
                "a letter, a digit or '_' first"
            ),
        ),
        ({"backbone": ""}, "backbone: must not be empty"),
        ({"evaluate": {"split": None}}, f"evaluate.split: null {NO_SPLIT}"),
        ({"evaluate": {"split": True}}, f"evaluate.split: true {NO_SPLIT}"),
        ({"evaluate": {"split": ["by_user"]}}, f"evaluate.split: a list {NO_SPLIT}"),
        (
            {"evaluate": {"split": {"kind": None}}},
            "evaluate.split: kind null is not known; leave_one_out, by_user and global_time are",
        ),
        (
            {"recommender": {"kind": ["bi_encoder"]}},
            "recommender: kind: a list is not known; there are " + ", ".join(KINDS),
        ),
        ({"merge": {"weights": [0.5, "b"]}}, "merge.weights.1: must be a number, not 'b'"),
        (
            {"evaluate": {"mask_history": "no"}},
            "evaluate.mask_history: must be true or false or 'both', not 'no'",
        ),
    ],
)
def test_messages_are_in_the_words_of_who_wrote_the_settings(
    settings: dict[str, Any], sentence: str
) -> None:
    """No types of Python and none of pydantic's; a field of several types is named once."""
    with pytest.raises(SettingError) as error:
        validate(WeaveRecRecipe, {"domains": ["a", "b"], **settings})
    assert str(error.value) == sentence
