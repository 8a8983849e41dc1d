"""PEFT's adapter_config.json: checked entry by entry, with answers about modules by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ConfigDict, FiniteFloat, NonNegativeInt, PositiveInt

from weft.adapters.config_fields import check_fields
from weft.adapters.header import PeftHeader
from weft.adapters.patterns import Pattern, PatternTable, Steps
from weft.artifacts.documents import read_object
from weft.errors import DataError, located
from weft.settings import StrictModel, validate

X = TypeVar("X")
Names = list[str] | str | None

# What PEFT adds to modules_to_save for a task, whether or not the model has such a module.
_HEADS: Mapping[str, tuple[str, ...]] = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}


_MOST = {  # entries of a list, so that a hostile one costs seconds at most
    "target_modules": 100_000,
    "exclude_modules": 100_000,
    "layers_to_transform": 10_000,
    "layers_pattern": 100,
    "modules_to_save": 1_000,
}


def _check_text(values: Mapping[str, Any]) -> None:
    """Names and patterns are printed in messages and written into what is merged."""
    for entry, value in values.items():
        if not all(text.isprintable() for text in (entry, *_strings(value))):
            raise DataError(f"the entry {entry!a} holds control characters")


def _strings(value: Any) -> Iterator[str]:
    """Every text in a value, keys included."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, Mapping):
            left += [*one.keys(), *one.values()]
        elif isinstance(one, list):
            left += one


def _check_counts(values: Mapping[str, Any]) -> None:
    for entry, most in _MOST.items():
        listed = values.get(entry)
        if isinstance(listed, list) and len(listed) > most:
            raise DataError(f"{entry} has {len(listed)} entries; at most {most} are read")


class _Entries(StrictModel):
    """The entries that weft reads; `config_fields` has all."""

    model_config = ConfigDict(extra="ignore", strict=True)

    task_type: str | None = None
    auto_mapping: dict[str, Any] | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    r: PositiveInt = 8
    lora_alpha: FiniteFloat = 8
    use_rslora: bool = False
    rank_pattern: dict[str, PositiveInt] | None = None
    alpha_pattern: dict[str, FiniteFloat] | None = None
    target_modules: Names = None
    exclude_modules: Names = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: Names = None
    modules_to_save: list[str] | None = None
    bias: Literal["none", "lora_only", "all"] = "none"
    trainable_token_indices: list[NonNegativeInt] | dict[str, list[NonNegativeInt]] | None = None
    ensure_weight_tying: bool = False
    fan_in_fan_out: bool = False


class LoraConfigFile:
    """One configuration. Names of modules are without PEFT's prefix."""

    def __init__(self, path: Path) -> None:
        values = read_object(path)
        self.path = path
        self._steps = Steps()
        self._of(lambda: _check_text(values))
        self._of(lambda: check_fields(values))
        self._of(lambda: _check_counts(values))
        self.entries = self._of(lambda: validate(_Entries, values, DataError))
        self._alphas = self._table("alpha_pattern", self.entries.alpha_pattern)
        self._ranks = self._table("rank_pattern", self.entries.rank_pattern)

    @property
    def header(self) -> PeftHeader:
        """The entries that a merged adapter keeps."""
        one = self.entries
        return PeftHeader(
            task_type=one.task_type,
            auto_mapping=one.auto_mapping,
            revision=one.revision,
            bias=one.bias,
            fan_in_fan_out=one.fan_in_fan_out,
            ensure_weight_tying=one.ensure_weight_tying,
            modules_to_save=tuple(one.modules_to_save or ()),
            token_list=not isinstance(one.trainable_token_indices, dict),
        )

    @property
    def tokens(self) -> Mapping[str, list[int]]:
        """End of an embedding's name -> the tokens whose rows were trained; "" is the input's."""
        indices = self.entries.trainable_token_indices
        if isinstance(indices, dict):
            return indices
        return {} if indices is None else {"": indices}

    @property
    def optional_heads(self) -> tuple[str, ...]:
        """Heads that PEFT lists in modules_to_save whether or not the model has them."""
        return _HEADS.get(self.entries.task_type or "", ())

    def rank(self, module: str) -> int:
        """The module's rank: of rank_pattern, or r."""
        exception = self._of(lambda: self._ranks.value(module))
        return self.entries.r if exception is None else int(exception)

    def scaling(self, module: str, rank: int) -> float:
        """α/r, or α/√r with rsLoRA."""
        exception = self._of(lambda: self._alphas.value(module))
        alpha = self.entries.lora_alpha if exception is None else exception
        return float(alpha) / (rank**0.5 if self.entries.use_rslora else rank)

    def declares(self, module: str) -> bool:
        """Whether PEFT would give the module factors, by its name."""
        return self._of(lambda: self._declares(module))

    def excludes(self, module: str) -> bool:
        """Whether the module has no factors whatever target_modules says."""
        return self._of(lambda: self._excludes(module))

    def _excludes(self, module: str) -> bool:
        one = self.entries
        if one.exclude_modules and self._named("exclude_modules", one.exclude_modules, module):
            return True
        return any(f".{name}." in f".{module}." for name in one.modules_to_save or ())

    def _declares(self, module: str) -> bool:
        one = self.entries
        if self._excludes(module):
            return False
        if one.target_modules is None or one.target_modules == "all-linear":
            return True
        if isinstance(one.target_modules, list) and module in self._sets["target_modules"]:
            return True
        named = self._named("target_modules", one.target_modules, module)
        if isinstance(one.target_modules, str) or one.layers_to_transform in (None, []):
            return named
        return named and self._layer(module) in (
            one.layers_to_transform
            if isinstance(one.layers_to_transform, list)
            else [one.layers_to_transform]
        )

    def _named(self, entry: str, names: list[str] | str, module: str) -> bool:
        """A list has names or ends of names, a string is an expression for the whole name."""
        if isinstance(names, str):
            return self._compiled((entry, names)).matches(module)
        words = module.split(".")
        known = self._sets[entry]
        return any(".".join(words[at:]) in known for at in range(len(words)))

    @cached_property
    def _sets(self) -> dict[str, frozenset[str]]:
        one = self.entries
        pairs = {"target_modules": one.target_modules, "exclude_modules": one.exclude_modules}
        return {key: frozenset(names) for key, names in pairs.items() if isinstance(names, list)}

    def _compiled(self, key: tuple[str, str]) -> Pattern:
        known: dict[tuple[str, str], Pattern] = self.__dict__.setdefault("_patterns", {})
        if key not in known:
            known[key] = Pattern(key[1], key[1], self._steps)
        return known[key]

    def _layer(self, module: str) -> int | None:
        """The first number in the name that stands behind the pattern, or behind two words."""
        patterns = self.entries.layers_pattern or []
        patterns = [patterns] if isinstance(patterns, str) else patterns
        words = module.split(".")
        for at in range(1, len(words) - 1):
            if not words[at].isdecimal():
                continue
            before = ".".join(words[:at])
            if not patterns and at >= 2:
                return int(words[at])
            for text in patterns:
                if self._compiled(("layers_pattern", rf"(?:.*?\.)?{text}")).matches(before):
                    return int(words[at])
        return None

    def _table(self, entry: str, patterns: dict[str, Any] | None) -> PatternTable:
        with located(f"{self.path}: {entry}"):
            return PatternTable(patterns or {}, self._steps)

    def _of(self, work: Callable[[], X]) -> X:
        with located(self.path):
            return work()
