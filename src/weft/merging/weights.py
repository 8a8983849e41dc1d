"""What a part's weight may be, and the number that each tensor gets from it.

- a number: the same for every tensor;
- a gradient: numbers that are spread evenly over the layers, first to last, and interpolated
  linearly between them;
- rules, each with the tensors that its number or gradient is for; the first that fits counts.

Layers are read from names: the number after `layers`, `layer`, `h`, `block` or `blocks`
(`model.layers.7.mlp.up_proj.weight` lies in layer 7); there are as many as the largest number
present says. A tensor outside the layers belongs to the first layer if its name says embedding
(`embed`, `wte`, `wpe`, `shared`), else to the last one, as final norms and heads do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ConfigDict, field_validator, model_validator

from weft.errors import SettingError
from weft.settings import StrictModel, field_errors, validate

_LAYER = re.compile(r"(?:^|\.)(?:\w*layers?|h|\w*blocks?)\.(\d+)(?=\.|$)")
_EARLY = re.compile(r"embed|(?:^|\.)(?:wte|wpe|shared)(?:\.|$)", re.IGNORECASE)

Value = float | tuple[float, ...]


class Rule(StrictModel):
    """A weight for some tensors: those that fit `pattern` or `filter` and lie in `layers`.

    A rule without any of these is for every tensor. A gradient runs over the rule's layers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    pattern: str | None = None  # a regular expression found in the name, or a tensor's whole name
    filter: str | None = None  # a text found in the name; '*' is found in every one
    layers: tuple[int, int] | None = None  # from the first number to before the second
    value: Value
    outside: float | None = None  # of tensors outside the layers, in place of the gradient's ends
    optional: bool = False  # may fit no tensor

    @field_validator("value", mode="before")
    @classmethod
    def _number_or_gradient(cls, value: Any) -> Value:
        return _value(value)

    @model_validator(mode="after")
    def _makes_sense(self) -> Rule:
        if self.pattern is not None and self.filter is not None:
            raise ValueError("say pattern or filter, not both")
        if self.layers is not None and not 0 <= self.layers[0] < self.layers[1]:
            raise ValueError(f"layers {list(self.layers)} is no range: [first, last + 1]")
        try:
            re.compile(self.pattern or "")
        except re.error as error:
            raise ValueError(
                f"pattern '{self.pattern}' is no regular expression ({error})"
            ) from None
        return self

    def words(self) -> str:
        """The rule in words, for messages."""
        if self.pattern is not None:
            words = f"pattern '{self.pattern}'"
        else:
            words = "rule" if self.filter is None else f"filter '{self.filter}'"
        if self.layers is not None:
            words += f" for layers {self.layers[0]} to {self.layers[1] - 1}"
        return words


WeightSpec = float | tuple[float, ...] | tuple[Rule, ...]


Side = Literal["before", "inside", "after"]


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: in layer `index` of `count`, or before or after all layers."""

    index: int  # the first layer's before, the last one's after
    count: int
    side: Side

    def depth(self, start: int, end: int) -> float:
        """How deep in layers [start, end): 0 for the first of them, 1 for the last or only one."""
        if self.side != "inside":
            return 0.0 if self.side == "before" else 1.0
        return (self.index - start) / (end - start - 1) if end - start > 1 else 1.0


def layer_of(name: str) -> str | None:
    """The layer that a tensor lies in, as its name says it; None outside all layers.

    >>> layer_of("encoder.layer.3.output.dense.weight")
    'encoder.layer.3'
    """
    match = _LAYER.search(name)
    return None if match is None else name[: match.end(1)].removeprefix(".")


def places(names: Iterable[str]) -> dict[str, Place]:
    """The place of every tensor; stacks (an encoder's, a decoder's) are counted on their own."""
    matches = {name: _LAYER.search(name) for name in names}
    counts: dict[str, int] = {}
    for name, match in matches.items():
        if match:
            stack = name[: match.start(1)]
            counts[stack] = max(counts.get(stack, 0), int(match[1]) + 1)
    most = max(counts.values(), default=0)
    where: dict[str, Place] = {}
    for name, match in matches.items():
        if match:
            where[name] = Place(int(match[1]), counts[name[: match.start(1)]], "inside")
        elif _EARLY.search(name):
            where[name] = Place(0, most, "before")
        else:
            where[name] = Place(max(most - 1, 0), most, "after")
    return where


def interpolate(gradient: Sequence[float], depth: float) -> float:
    """The value at a depth in [0, 1] of numbers spread evenly over it.

    >>> [interpolate([0.0, 1.0, 0.0], depth) for depth in (0.0, 0.25, 0.5, 1.0)]
    [0.0, 0.5, 1.0, 0.0]
    """
    scaled = depth * (len(gradient) - 1)
    low = min(int(scaled), len(gradient) - 1)
    high = min(low + 1, len(gradient) - 1)
    part = scaled - low
    return (1 - part) * gradient[low] + part * gradient[high]


def weight_spec(value: Any) -> WeightSpec:
    """Read a number, a gradient, or rules; a ValueError says what is wrong."""
    if isinstance(value, list | tuple) and value and isinstance(value[0], Mapping | Rule):
        return tuple(_rule(one) for one in value)
    return _value(value)


def is_zero(value: Any) -> bool:
    """Whether a weight is 0 for every tensor that there can be."""
    try:
        spec = weight_spec(value)
    except ValueError:
        return False
    numbers = [spec] if isinstance(spec, int | float) else list(spec)
    values = [one.value if isinstance(one, Rule) else one for one in numbers]
    return not any(any(one) if isinstance(one, tuple) else one for one in values)


@dataclass(frozen=True)
class Weights:
    """Tensor name -> K weights."""

    table: Mapping[str, tuple[float, ...]]
    unused: tuple[str, ...] = ()  # what optional rules fit no tensor, in words

    def __call__(self, name: str) -> list[float]:
        return list(self.table[name])


def check_count(specs: Sequence[Any], parts: int) -> None:
    """A `WeftError` unless there is one weight for each part."""
    if len(specs) != parts:
        need = f"{parts} part{'s need' * (parts > 1) or ' needs'}"
        raise SettingError(f"{need} {parts} weight{'s' * (parts > 1)}, not {len(specs)}")


def resolve_weights(
    specs: Sequence[Any],
    names: Iterable[str],
    labels: Sequence[str] | None = None,
    what: str = "weight",
) -> Weights:
    """The weights of K parts for every tensor; `labels` name the parts in messages, and `what`
    the number, where it is another option than a weight.

    Raises `WeftError` for a wrong number of weights, one that is no finite number, a tensor that
    no rule is for, and a rule that is for no tensor unless it is `optional`.

    >>> names = ["embed.weight", "layers.0.mlp.weight", "layers.1.mlp.weight", "layers.1.attn.weight"]
    >>> rules = [{"pattern": "attn", "value": 2}, {"value": [0, 1]}]
    >>> weights = resolve_weights([0.5, rules], names)
    >>> [weights(name) for name in names]
    [[0.5, 0.0], [0.5, 0.0], [0.5, 1.0], [0.5, 2.0]]
    """
    known = list(labels) if labels is not None else [str(k + 1) for k in range(len(specs))]
    check_count(specs, len(known))
    where = places(names)
    columns, unused = [], []
    for label, value in zip(known, specs, strict=True):
        try:
            spec = weight_spec(value)
        except ValueError as error:
            raise SettingError(f"the {what} of part '{label}': {error}") from None
        column, idle = _resolve(spec, where, label, what)
        columns.append(column)
        unused += idle
    table = {name: tuple(column[name] for column in columns) for name in where}
    return Weights(table, tuple(dict.fromkeys(unused)))


def _resolve(
    spec: WeightSpec, where: Mapping[str, Place], label: str, what: str
) -> tuple[dict[str, float], list[str]]:
    """One part's number for each tensor, and the optional rules that fit none."""
    column: dict[str, float] = {}
    idle: list[str] = []
    for rule in _rules(spec):
        fitting = _fitting(rule, where, label, what)
        if not fitting and not rule.optional:
            raise SettingError(f"the {what} of part '{label}': {rule.words()} fits no tensor")
        anywhere = rule.model_copy(update={"layers": None})
        if not fitting and not _fitting(anywhere, where, label, what):
            idle.append(anywhere.words())
        for name in fitting:
            column.setdefault(name, _at(rule, where[name], label, what))
    for name in where:
        if name not in column:
            layer = f" (layer {where[name].index})" if where[name].count else ""
            raise SettingError(f"part '{label}': no rule gives a {what} for tensor '{name}'{layer}")
    return column, idle


def _rules(spec: WeightSpec) -> tuple[Rule, ...]:
    if isinstance(spec, int | float):
        return (Rule(value=spec),)
    numbers = tuple(one for one in spec if not isinstance(one, Rule))
    return (Rule(value=numbers),) if numbers else tuple(o for o in spec if isinstance(o, Rule))


def _fitting(rule: Rule, where: Mapping[str, Place], label: str, what: str) -> list[str]:
    names: list[str] = list(where)
    if rule.pattern is not None:
        regex = re.compile(rule.pattern)
        names = [rule.pattern] if rule.pattern in where else [n for n in names if regex.search(n)]
    elif rule.filter not in (None, "*"):
        names = [name for name in names if str(rule.filter) in name]
    if rule.layers is None:
        return names
    start, end = rule.layers
    most = max((place.count for place in where.values()), default=0)
    if end > most:
        raise SettingError(
            f"the {what} of part '{label}': {rule.words()}, but there are {most} layers"
        )
    return [name for name in names if start <= where[name].index < end]


def _at(rule: Rule, place: Place, label: str, what: str) -> float:
    if rule.outside is not None and place.side != "inside":
        return rule.outside
    if isinstance(rule.value, int | float):
        return float(rule.value)
    if place.count == 0 and len(rule.value) > 1:
        raise SettingError(
            f"the {what} of part '{label}': a gradient needs layers, but no tensor has a layer's "
            "number in its name"
        )
    return interpolate(rule.value, place.depth(*(rule.layers or (0, place.count))))


def _value(value: Any) -> Value:
    if isinstance(value, list | tuple):
        if not value:
            raise ValueError("a gradient needs at least one number")
        return tuple(_number(one) for one in value)
    return _number(value)


def _number(value: Any) -> float:
    if isinstance(value, str):  # YAML reads 1e-3 as text
        with suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is neither a number, nor a list of numbers, nor rules")
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    return float(value)


def _rule(value: Any) -> Rule:
    if isinstance(value, Rule):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"{value!r} is no rule: {{pattern: …, value: …}}")
    with field_errors(f"rule {dict(value)}"):
        return validate(Rule, value)
