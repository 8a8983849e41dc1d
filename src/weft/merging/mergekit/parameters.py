"""Where mergekit finds a parameter: a model's own, then the slice's, then the file's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from weft.errors import SettingError

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class LayerSpan:
    """The whole model, or the layers of one slice of it, with their parameters."""

    layers: tuple[int, int] | None  # of the merged model
    models: Mapping[str, Settings]  # part -> its parameters
    parameters: Settings


@dataclass(frozen=True)
class ParameterReader:
    """The parameters of a file, for the models that are merged."""

    method: str
    models: tuple[str, ...]  # those merged: without a base that is only the others' origin
    base: str | None
    spans: tuple[LayerSpan, ...]
    parameters: Settings
    dtype: str | None = None  # in which mergekit computes; by default that of the files

    def weights(self, name: str, part: str | None, default: float | None = None) -> Any:
        """A weight of weft: a number, or rules, from the parameter called `name`."""
        rules = [rule for span in self.spans for rule in self._rules(span, name, part, default)]
        if not rules:
            whose = "" if part is None else f" for '{part}'"
            raise SettingError(f"mergekit's {self.method} needs a {name}{whose}")
        return rules[0]["value"] if list(rules[0]) == ["value"] else rules

    def option(self, name: str, default: Any) -> Any:
        """A setting that must be the same for every layer and tensor."""
        values: list[Any] = []
        for span in self.spans:
            value = next(self._levels(span, name, None), default)
            if isinstance(value, list | Mapping):
                raise SettingError(
                    f"{name} is {value}, but weft takes one {name} for all layers and tensors"
                )
            values.append(value)
        if any(one != values[0] for one in values):
            value = ", ".join(map(str, dict.fromkeys(values)))
            raise SettingError(
                f"{name} differs between slices ({value}), but weft takes one {name}"
            )
        return values[0]

    def names(self) -> set[str]:
        """The name of every parameter that the file has for parts, slices or all."""
        levels = [self.parameters]
        for span in self.spans:
            levels += [span.parameters, *(span.models.get(part, {}) for part in self.models)]
        return {name for level in levels for name in level}

    def filters(self) -> set[str]:
        """Every filter that a parameter has anywhere."""
        levels = [self.parameters]
        for span in self.spans:
            levels += [span.parameters, *span.models.values()]
        every = [one for level in levels for name in level for one in conditions(level[name], name)]
        return {str(one["filter"]) for one in every if one.get("filter") is not None}

    def of_base(self) -> set[str]:
        """Parameters of a base that is only the others' origin: nothing reads them."""
        if self.base is None or self.base in self.models:
            return set()
        return {name for span in self.spans for name in span.models.get(self.base, {})}

    def _levels(self, span: LayerSpan, name: str, part: str | None) -> Iterator[Any]:
        of_model = {} if part is None else span.models.get(part, {})
        return (
            level[name] for level in (of_model, span.parameters, self.parameters) if name in level
        )

    def _rules(
        self, span: LayerSpan, name: str, part: str | None, default: float | None
    ) -> Iterator[dict[str, Any]]:
        """Of the first level, then of the next for what it leaves open, and so on."""
        where = {} if span.layers is None else {"layers": list(span.layers)}
        for level in self._levels(span, name, part):
            for one in conditions(level, name):
                chosen, value = one.get("filter"), _value(one["value"])
                if chosen in (None, "*"):
                    yield where | value
                    return
                yield {"filter": chosen} | where | value | {"optional": True}
        if default is not None:
            yield where | {"value": default}


def _value(value: Any) -> dict[str, Any]:
    """A gradient runs over the layers; all outside them get its first number, as in mergekit."""
    if isinstance(value, list) and value:
        return {"value": value, "outside": value[0]}
    return {"value": value}


def conditions(setting: Any, name: str) -> list[dict[str, Any]]:
    """A parameter as mergekit's conditions: one, several, or a value for all."""
    listed = setting if isinstance(setting, list) else [setting]
    if listed and all(isinstance(one, Mapping) for one in listed):
        for one in listed:
            if "value" not in one or set(one) - {"value", "filter"}:
                raise SettingError(f"{name}: {dict(one)} is not {{filter: …, value: …}}")
        return [dict(one) for one in listed]
    return [{"value": setting}]


def changed_weight(value: Any, change: Callable[[float], float], name: str) -> Any:
    """A weight of weft with every number in it changed."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [changed_weight(one, change, name) for one in value]
    if isinstance(value, Mapping):
        numbers = {
            key: changed_weight(value[key], change, name)
            for key in ("value", "outside")
            if key in value
        }
        return {**value, **numbers}
    return change(as_number(value, name))


def as_number(value: Any, name: str) -> float:
    """A number, which YAML may hold as text (1e-3)."""
    if isinstance(value, str):
        with suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SettingError(f"{name}: {value!r} is not a number")
    return value
