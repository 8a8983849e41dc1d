"""`weft merge` takes what a fixed list of options can't say: several numbers after `--weights`,
several files after `--catalogues`, and the options of whichever method is chosen."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

Backbone = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Adapters that name their backbone differently: the model that all belong to.",
    ),
]
KEY = "weft.merge.method"  # where a context keeps the method's options

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_NUMBERS = re.compile(rf",?{_NUMBER}(?:,{_NUMBER})*,?")


class MergeCommand(TyperCommand):
    """A command whose unknown `--options` are the merging method's."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        known = {
            name: bool(getattr(one, "is_flag", False)) for one in self.params for name in one.opts
        }
        rest, options = split_options(args, known | {"--help": True})
        ctx.meta[KEY] = options
        return super().parse_args(ctx, rest)


def split_options(
    args: Sequence[str], known: Mapping[str, bool]
) -> tuple[list[str], dict[str, str]]:
    """Arguments with known options only, and the others: name, with underscores -> text.

    `known` says of an option whether it is a flag. After `--weights` come as many numbers as
    there are, after `--catalogues` as many files of items. An unknown option takes the next argument unless that is an option too; one that
    is yes or no for some method takes it only if it says so.
    """
    rest: list[str] = []
    options: dict[str, str] = {}
    left = list(args)
    while left:
        one = left.pop(0)
        name, equals, value = one.partition("=")
        if one == "--":
            rest += [one, *left]
            break
        if name == "--weights" and not equals:
            rest.append(f"--weights={','.join(_numbers(left))}")
        elif name == "--catalogues" and not equals:
            rest.append(f"--catalogues={','.join(_files(left))}")
        elif name in known:
            rest.append(one)
            if not equals and not known[name] and left:
                rest.append(left.pop(0))
        elif re.fullmatch(r"--[a-zA-Z][\w-]*", name):
            key = name[2:].replace("-", "_")
            if not equals:
                key, value = _value(key, left, known)
            options[key] = value
        else:
            rest.append(one)
    return rest, options


def _numbers(left: list[str]) -> list[str]:
    from weft.errors import WeftError

    found: list[str] = []
    while left and _NUMBERS.fullmatch(left[0]):
        found.append(left.pop(0).strip(","))
    if not found:
        said = f", and '{left[0]}' is none" if left and not left[0].startswith("--") else ""
        raise WeftError(f"--weights needs a number for each part{said}")
    return found


def _files(left: list[str]) -> list[str]:
    from weft.errors import WeftError

    found: list[str] = []
    while left and left[0].lower().endswith((".parquet", ".csv", ".tsv", ".txt")):
        found.append(left.pop(0))
    if not found:
        raise WeftError("--catalogues needs a file of items for each part: .parquet, .csv or .txt")
    return found


def _value(key: str, left: list[str], known: Mapping[str, bool]) -> tuple[str, str]:
    from weft.errors import WeftError
    from weft.merging.methods import METHODS

    fields = [model.model_fields.get(key.removeprefix("no_")) for model in METHODS.values()]
    if any(field is not None and field.annotation is bool for field in fields):
        said = left[0].lower() if left else ""
        if key.startswith("no_"):
            return key.removeprefix("no_"), "false"
        return key, left.pop(0) if said in ("true", "false", "yes", "no") else "true"
    if left and not left[0].startswith("--") and left[0] not in known:
        return key, left.pop(0)
    if any(field is not None for field in fields):
        raise WeftError(f"{_option(key)} needs a value")
    return key, "true"


def method_of(name: str, options: Mapping[str, str]) -> dict[str, Any]:
    """A method as a recipe says it; what a method does not know goes to the one it holds (`then`).

    Raises `WeftError` for an unknown method, and for an option that none of them has.
    """
    from weft.artifacts.yaml_documents import parse_yaml

    words = {"yes": "true", "no": "false"}
    values = {
        key: parse_yaml(words.get(text.lower(), text), _option(key))
        for key, text in options.items()
    }
    return _method(name, values, (), ())


def _method(
    name: str, values: dict[str, Any], outer: tuple[str, ...], known: tuple[str, ...]
) -> dict[str, Any]:
    """`outer` are the methods that hold this one, `known` the options that they have."""
    from weft.errors import WeftError
    from weft.merging.methods import METHODS, make_method

    if name not in METHODS:
        make_method(name)  # says what there is
    fields = METHODS[name].model_fields
    own = {key: value for key, value in values.items() if key in fields}
    left = {key: value for key, value in values.items() if key not in fields}
    has = (*known, *(field for field in fields if field not in known))
    if "then" in fields and (left or "then" in own):
        default = fields["then"].default
        inner = str(own.get("then", default.name))
        given = {} if "then" in own else default.model_dump(mode="json", exclude_unset=True)
        own["then"] = _method(inner, {**given, **left}, (*outer, name), has)
    elif left:
        chain = ", then ".join(f"'{one}'" for one in (*outer, name))
        said = f"it has {', '.join(map(_option, has))}" if has else "it has none"
        raise WeftError(f"method {chain}: there is no option {_option(min(left))}; {said}")
    return {"name": name, **own}


def _option(field: str) -> str:
    return "--" + field.replace("_", "-")
