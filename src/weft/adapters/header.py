"""The entries of a PEFT configuration beside ranks and scalings: how an adapter is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from weft.errors import MismatchError

Bias = Literal["none", "lora_only", "all"]
_BIASES: tuple[Bias, ...] = ("none", "lora_only", "all")


@dataclass(frozen=True, eq=False)
class TokenRows:
    """Rows of an embedding that were trained alone: `rows` [n, dim] are the rows themselves, not
    differences, and row k belongs to the token `indices[k]`."""

    indices: tuple[int, ...]
    rows: Tensor


@dataclass(frozen=True)
class PeftHeader:
    """Entries of PEFT's configuration that a merged adapter keeps.

    `modules_to_save` are ends of names, as PEFT matches them; None: the very modules of the
    tensors saved whole. `token_list`: trainable_token_indices is a list, of the input embedding,
    and not a mapping of modules.
    """

    task_type: str | None = None
    auto_mapping: Mapping[str, Any] | None = None
    revision: str | None = None
    bias: Bias = "none"
    fan_in_fan_out: bool = False
    ensure_weight_tying: bool = False
    modules_to_save: tuple[str, ...] | None = None
    token_list: bool = True

    def saves(self, name: str) -> bool:
        """Whether a tensor belongs to a module that is saved whole, for PEFT an end of a name."""
        words = name.split(".")[:-1]
        modules = [".".join(words[:count]) for count in range(1, len(words) + 1)]
        return any(one.endswith(end) for one in modules for end in self.modules_to_save or ())


def merge_headers(headers: Mapping[str, PeftHeader]) -> PeftHeader:
    """One header for what is merged of several, by label.

    Raises `MismatchError` where parts are of different tasks, classes or revisions of the backbone:
    a merged adapter can have only one of each.
    """
    task = _agreed("task_type", {k: one.task_type for k, one in headers.items()})
    classes = {k: (one.auto_mapping or {}).get("base_model_class") for k, one in headers.items()}
    if task is None:
        _agreed("auto_mapping.base_model_class", classes)
    listed = [one.modules_to_save for one in headers.values()]
    ends = [end for one in listed for end in one or ()]
    return PeftHeader(
        task_type=task,
        auto_mapping=next((one.auto_mapping for one in headers.values() if one.auto_mapping), None),
        revision=_agreed("revision", {k: one.revision for k, one in headers.items()}),
        bias=max((one.bias for one in headers.values()), key=_BIASES.index),
        fan_in_fan_out=any(one.fan_in_fan_out for one in headers.values()),
        ensure_weight_tying=any(one.ensure_weight_tying for one in headers.values()),
        modules_to_save=None if None in listed else tuple(dict.fromkeys(ends)),
        token_list=all(one.token_list for one in headers.values()),
    )


def _agreed(entry: str, values: Mapping[str, Any]) -> Any:
    """The one value that the parts state; None where none does."""
    stated = {label: value for label, value in values.items() if value is not None}
    if not stated:
        return None
    (first, value), *others = stated.items()
    for label, other in others:
        if other != value:
            raise MismatchError(
                f"{entry} is {value} in {first} and {other} in {label} (adapter_config.json): a merged "
                "adapter can have only one of them"
            )
    return value


def saved_ends(header: PeftHeader, saved: Sequence[str], others: Sequence[str]) -> list[str] | None:
    """The `modules_to_save` with which PEFT loads the tensors saved whole, without `others`."""
    if header.modules_to_save is not None:
        return list(header.modules_to_save) or None
    return sorted({n.rpartition(".")[0] for n in saved if n not in others}) or None
