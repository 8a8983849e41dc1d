"""`weft merge` takes what a fixed list of options can't hold: several numbers after `--weights`,
several files after `--catalogues`, and the options of whichever method is chosen."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated

import typer
from typer.core import TyperCommand

Backbone = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The backbone of all adapters, where their files name it differently.",
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

    `known` has True for each option that is a flag. After `--weights` come as many numbers as
    there are, after `--catalogues` as many files of items. An unknown option takes the next
    argument unless that is an option too; one that is yes or no for some method takes it only if
    it says so.
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
    from weft.errors import SettingError

    numbers: list[str] = []
    while left and _NUMBERS.fullmatch(left[0]):
        numbers.append(left.pop(0).strip(","))
    if not numbers:
        none = f", and '{left[0]}' is none" if left and not left[0].startswith("--") else ""
        raise SettingError(f"--weights needs a number for each part{none}")
    return numbers


def _files(left: list[str]) -> list[str]:
    from weft.errors import SettingError

    files: list[str] = []
    while left and left[0].lower().endswith((".parquet", ".csv", ".tsv", ".txt")):
        files.append(left.pop(0))
    if not files:
        raise SettingError(
            "--catalogues needs a file of items for each part: .parquet, .csv or .txt"
        )
    return files


def _value(key: str, left: list[str], known: Mapping[str, bool]) -> tuple[str, str]:
    from weft.errors import SettingError
    from weft.merging.methods.registry import METHODS
    from weft.merging.recipe_options import option_text

    fields = [model.model_fields.get(key.removeprefix("no_")) for model in METHODS.values()]
    if any(field is not None and field.annotation is bool for field in fields):
        answer = left[0].lower() if left else ""
        if key.startswith("no_"):
            return key.removeprefix("no_"), "false"
        return key, left.pop(0) if answer in ("true", "false", "yes", "no") else "true"
    if left and not left[0].startswith("--") and left[0] not in known:
        return key, left.pop(0)
    if any(field is not None for field in fields):
        raise SettingError(f"{option_text(key)} needs a value")
    return key, "true"
