"""A recipe from the options of a command: parts, a method with its options, weights, a base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from weft.errors import SettingError
from weft.merging.methods.registry import METHODS, make_method
from weft.merging.recipe import MergeRecipe
from weft.merging.recipe_file import load_merge_recipe
from weft.merging.weights import check_count
from weft.settings import validate
from weft.settings.yaml_documents import parse_yaml

_AS_THEY_ARE = ("space", "rank", "union", "tokenizer", "backbone")  # as a recipe has them


def recipe_of_options(
    parts: Sequence[str], stated: Mapping[str, Any], options: Mapping[str, str]
) -> MergeRecipe:
    """The recipe that the options stand for, or the one that a file is.

    `stated` has the options of a merge: `method`, `weights` (texts of numbers) or `weight`
    (numbers), `base` (several: their mean), and fields of a recipe; `options` those of the method,
    name -> text. A recipe's file stands alone: what else is stated must stand in it.
    """
    files = [part for part in parts if Path(part).suffix in (".yaml", ".yml", ".json")]
    if files and len(parts) > 1:
        raise SettingError(f"{files[0]} is a recipe, which names every part: give it alone")
    if files:
        inside = [name for name, value in stated.items() if value] + sorted(options)
        if inside:
            raise SettingError(f"{parts[0]} is a recipe: write {inside[0].replace('_', '-')} there")
        return load_merge_recipe(Path(parts[0]))
    method = method_of_options(stated["method"] or "linear", options)
    weights = _weights(stated)
    if weights is not None:
        check_count(weights, len(parts))
    base: Any = stated["base"] or None
    if base is not None:
        base = base[0] if len(base) == 1 else {"mean_of": base}
    specs = [
        {"path": path} | ({} if weights is None else {"weight": weights[k]})
        for k, path in enumerate(parts)
    ]
    values = {"method": method, "parts": specs, "base": base}
    return validate(MergeRecipe, values | {name: stated[name] for name in _AS_THEY_ARE})


def recipe_with(recipe: MergeRecipe, **fields: Any) -> MergeRecipe:
    """The recipe with other values for some fields, those that are not None."""
    return recipe.model_copy(update={name: v for name, v in fields.items() if v is not None})


def _weights(stated: Mapping[str, Any]) -> list[Any] | None:
    if stated["weights"] and stated["weight"]:
        raise SettingError("say --weights or --weight, not both")
    if stated["weights"]:
        return [one for text in stated["weights"] for one in text.split(",") if one.strip()]
    return stated["weight"] or None


def method_of_options(name: str, options: Mapping[str, str]) -> dict[str, Any]:
    """A method as a recipe has it; what a method does not know goes to the one it holds (`then`).

    Raises a `SettingError` for an unknown method, and for an option that none of them has.

    >>> method_of_options("dare", {"drop_rate": "0.9", "scale": "2"})
    {'name': 'dare', 'drop_rate': 0.9, 'then': {'name': 'task_arithmetic', 'scale': 2}}
    """
    words = {"yes": "true", "no": "false"}
    values = {
        key: parse_yaml(words.get(text.lower(), text), option_text(key))
        for key, text in options.items()
    }
    return _method(name, values, (), ())


def _method(
    name: str, values: dict[str, Any], outer: tuple[str, ...], known: tuple[str, ...]
) -> dict[str, Any]:
    """`outer` are the methods that hold this one, `known` the options that they have."""
    if name not in METHODS:
        make_method(name)  # says what there is
    fields = METHODS[name].model_fields
    method = {key: value for key, value in values.items() if key in fields}
    left = {key: value for key, value in values.items() if key not in fields}
    has = (*known, *(field for field in fields if field not in known))
    if "then" in fields and (left or "then" in method):
        default = fields["then"].default
        inner = str(method.get("then", default.name))
        usual = {} if "then" in method else default.model_dump(mode="json", exclude_unset=True)
        method["then"] = _method(inner, {**usual, **left}, (*outer, name), has)
    elif left:
        chain = ", then ".join(f"'{one}'" for one in (*outer, name))
        listed = f"it has {', '.join(map(option_text, has))}" if has else "it has none"
        raise SettingError(f"method {chain}: there is no option {option_text(min(left))}; {listed}")
    return {"name": name, **method}


def option_text(field: str) -> str:
    """A field as an option of the command line: `drop_rate` is --drop-rate."""
    return "--" + field.replace("_", "-")
