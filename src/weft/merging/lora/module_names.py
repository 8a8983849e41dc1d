"""One model's modules under other names: a wrapper put a prefix before them, or a word between.

Training stacks wrap a model, and adapters keep the wrapped names: `model.layers.0.mlp.up` of the
plain model is `language_model.model.layers.0.mlp.up` inside a model that sees images,
`_orig_mod.model.layers.0.mlp.up` after `torch.compile`, `base_model.model.model.layers.0.mlp.up`
where PEFT's own prefix was written twice. Taken as they are, these would be different modules, and
a merge would keep each of them at a part's weight.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor

from weft.adapters import Adapter
from weft.adapters.factors import Half, LazyFactors, LazyTensors
from weft.errors import DataError, MismatchError

# Words before the model's own names: PEFT, DDP and DeepSpeed, torch.compile, models of several
# modalities, sentence-transformers, and the attribute that a head of transformers has its model in.
_BEFORE = frozenset(
    (
        *("base_model", "model", "module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module"),
        *("_checkpoint_wrapped_module", "wrapped_model", "language_model", "text_model", "llm"),
        *("lm", "vlm", "backbone", "auto_model", "transformer", "gpt_neox", "bert", "roberta"),
        *("deberta", "distilbert", "xlm_roberta", "electra", "mpnet", "albert", "camembert"),
        *("longformer", "recformer"),
    )
)
# Words that a wrapper puts anywhere.
_BETWEEN = frozenset(
    ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer")
)
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
_LEAST = 0.5  # of the smaller part's modules, that the others must have


@dataclass(frozen=True)
class MatchedAdapters:
    """Adapters whose module names are those of the first one that has the module."""

    adapters: tuple[Adapter, ...]
    notes: tuple[str, ...]  # for people: what was matched


def bare(name: str) -> str:
    """A module's or tensor's name without what wrappers added to it.

    >>> bare("base_model.model.model.layers.0.mlp.up_proj")
    'layers.0.mlp.up_proj'
    """
    words = [word for word in name.split(".") if word not in _BETWEEN]
    if words[:2] == ["0", "auto_model"]:  # of a SentenceTransformer, a list of modules
        del words[0]
    while len(words) > 1 and words[0] in _BEFORE:
        del words[0]
    return ".".join(words)


def align(
    adapters: Sequence[Adapter], labels: Sequence[str], *, union: bool = False
) -> MatchedAdapters:
    """The adapters under the first one's names, where theirs differ by known wrappers only.

    Raises `WeftError` for a part that has fewer than half of its modules in common with those
    before it (half of the smaller side's), unless `union` allows that: then a module counts as
    zero where a part lacks it.
    """
    renamed_adapters: list[Adapter] = []
    notes: list[str] = []
    known: dict[str, str] = {}  # bare name -> name
    modules: dict[str, None] = {}
    for label, adapter in zip(labels, adapters, strict=True):
        renamed = _renaming(_names(adapter), known)
        changed = {old: new for old, new in renamed.items() if old != new}
        if changed:
            old = min(changed, key=lambda name: (name not in adapter.shapes, name))
            notes.append(
                f"{label} calls its modules otherwise than {labels[0]}: "
                f"'{old}' is taken for '{changed[old]}'"
            )
            adapter = rename(adapter, changed)
        if renamed_adapters and not union:
            _check_overlap(
                list(modules), labels[: len(renamed_adapters)], list(adapter.shapes), label
            )
        known |= {bare(name): name for name in renamed.values() if bare(name) not in known}
        modules |= dict.fromkeys(adapter.shapes)
        renamed_adapters.append(adapter)
    for label, adapter in zip(labels, renamed_adapters, strict=True):
        _check_whole(label, adapter, modules)
    return MatchedAdapters(tuple(renamed_adapters), tuple(notes))


def _check_whole(label: str, adapter: Adapter, modules: Iterable[str]) -> None:
    """A `WeftError` for a module that other parts have factors of, and this one declares and has in
    other layers: its file is not whole."""
    if adapter.declares is None:
        return
    kinds = {_NUMBER.sub("*", name) for name in adapter.shapes}
    for name in modules:
        lacking = name not in adapter.shapes and _NUMBER.sub("*", name) in kinds
        if lacking and adapter.declares(name):
            raise DataError(
                f"{label} has no factors of '{name}', which its adapter_config.json declares "
                "(target_modules) and other parts have: the file is not whole, or "
                "layers_to_transform or exclude_modules should leave it out"
            )


def _renaming(names: Sequence[str], known: Mapping[str, str]) -> dict[str, str]:
    """Name -> the name that parts before have for it; as it is where no one or two could be it."""
    if len({bare(name) for name in names}) < len(names):
        return {name: name for name in names}
    there = set(known.values())
    same = {name: name for name in names if name in there}
    matched = {
        name: known[bare(name)] for name in names if name not in there and bare(name) in known
    }
    if not matched:
        return {name: name for name in names}
    # A module that only this part has is called as its neighbours are.
    prefixes = Counter((_prefix(old), _prefix(new)) for old, new in (same | matched).items())
    best: dict[str, str] = {}
    for (old, new), _ in prefixes.most_common():
        best.setdefault(old, new)
    rest = {
        name: best.get(_prefix(name), _prefix(name)) + bare(name)
        for name in names
        if name not in same and name not in matched
    }
    renamed = same | matched | rest
    if len(set(renamed.values())) < len(names):  # two would become one
        return {name: name for name in names}
    return {name: renamed[name] for name in names}


def _prefix(name: str) -> str:
    plain = ".".join(word for word in name.split(".") if word not in _BETWEEN)
    return plain.removesuffix(bare(name))


def rename(adapter: Adapter, names: Mapping[str, str]) -> Adapter:
    """The adapter with other names of modules and tensors, its hash that of the original."""
    old = {names.get(name, name): name for name in adapter.shapes}
    shapes = {new: adapter.shapes[name] for new, name in old.items()}

    def half(module: str, half: Half) -> Tensor:
        return adapter.half(old[module], half)

    held: dict[str, Any] = {
        field: _renamed(values, names) for field, values in _held(adapter).items()
    }
    renamed = replace(adapter, factors=LazyFactors(shapes, half), **held)
    # The hash names the artifact that was read, not what its modules are called here.
    renamed.__dict__["weights_hash"] = adapter.weights_hash
    return renamed


def _held(adapter: Adapter) -> dict[str, Any]:
    """What an adapter holds by name beside its factors."""
    values_by_field = {field.name: getattr(adapter, field.name) for field in fields(adapter)}
    return {
        name: value
        for name, value in values_by_field.items()
        if isinstance(value, Mapping) and name not in ("factors", "manifest")
    }


def _names(adapter: Adapter) -> list[str]:
    held = [name for one in _held(adapter).values() for name in one]
    return list(dict.fromkeys([*adapter.shapes, *held]))


def _renamed(held: Mapping[str, Any], names: Mapping[str, str]) -> Mapping[str, Any]:
    old = {names.get(name, name): name for name in held}
    if isinstance(held, LazyTensors):
        return LazyTensors(tuple(old), lambda name: held[old[name]])
    return {new: held[name] for new, name in old.items()}


def _check_overlap(
    before: Sequence[str], labels: Sequence[str], modules: Sequence[str], label: str
) -> None:
    common = set(before) & set(modules)
    smaller = min(len(before), len(modules))
    if not smaller or len(common) >= _LEAST * smaller:
        return
    others = labels[0] if len(labels) == 1 else f"the {len(labels)} parts before it"
    one, other = _example(before, common), _example(modules, common)
    share = f"only {len(common)} of {smaller} modules" if common else "no module"
    raise MismatchError(
        f"{label} has {share} in common with {others} ('{other}' against '{one}'): "
        "if they belong to one model and each module is to keep its own part's change, allow it "
        "with --union (union: true)"
    )


def _example(names: Iterable[str], common: set[str]) -> str:
    every = list(names)
    return next((name for name in every if name not in common), every[0])
