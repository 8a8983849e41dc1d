"""The parts of a merge, whatever they come from: all adapters, or all sets of full weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from weft.adapters.adapter import Adapter
from weft.errors import MismatchError, NotFoundError, SettingError
from weft.merging.engine.source import Memory, TensorSource
from weft.merging.paths import ADAPTER_WEIGHTS, is_adapter, locate
from weft.merging.recipe import (
    LoadedBase,
    LoadedPart,
    MeanOf,
    MergeRecipe,
    PartSpec,
    StackSpec,
)
from weft.names import check_name

if TYPE_CHECKING:
    from weft.merging.checkpoints.layer_stack import Stack

Kind = Literal["adapters", "checkpoints", "tensors"]


@dataclass(frozen=True, eq=False)
class OpenedParts:
    """K parts of one kind; `paths` has None for what came from memory."""

    kind: Kind
    labels: tuple[str, ...]
    paths: tuple[Path | None, ...]
    adapters: tuple[Adapter, ...] = ()
    sources: tuple[TensorSource, ...] = ()
    notes: tuple[str, ...] = ()  # for people: what was matched
    absent: tuple[bool, ...] = ()  # adapters of weight 0, which are stood in for

    @property
    def present(self) -> tuple[list[Adapter], list[str], list[Path | None]]:
        """Adapters, labels and paths of those that take part."""
        rows = [k for k in range(len(self.labels)) if not (self.absent and self.absent[k])]
        return (
            [self.adapters[k] for k in rows],
            [self.labels[k] for k in rows],
            [self.paths[k] for k in rows],
        )

    @property
    def names(self) -> list[str]:
        """Of the tensors that a weight is for: an adapter's modules, a checkpoint's tensors."""
        if self.kind == "adapters":
            rows = [f"{name}.weight" for one in self.adapters for name in one.tokens]
            every = [name for one in self.adapters for name in (*one.factors, *one.saved)]
            carried = {name for one in self.adapters for name in one.carried}
            return [name for name in dict.fromkeys([*every, *rows]) if name not in carried]
        return list(self.sources[0].specs)


def open_parts(recipe: MergeRecipe, absent: Sequence[bool] = ()) -> OpenedParts:
    """Open what a recipe names; a part's label is its folder's name unless it has one.

    Adapters are put under the names of the first one's modules; `union` allows that they have few
    in common (`weft.merging.lora.module_names.align`). They get one backbone, which `backbone`
    names where they don't agree (`weft.merging.lora.shared_backbone.share_backbone`); those that
    name none get the recipe's base as theirs. Adapters that are `absent` are neither read nor
    checked: the first one that takes part stands in for them, at weight 0.

    Raises `WeftError` for parts of two kinds, two parts with one name, and what can't be read.
    """
    parts = [_content(part) for part in recipe.parts]
    paths = [locate(part) if isinstance(part, str) else None for part in parts]
    kinds = [_kind(part, path) for part, path in zip(parts, paths, strict=True)]
    if "checkpoints" in kinds:  # formulas and open checkpoints may stand beside paths
        kinds = [
            "checkpoints" if _streams(part) else k for part, k in zip(parts, kinds, strict=True)
        ]
    names = _labels(parts, paths, [part.name for part in recipe.parts])
    for name in names:
        check_name(name, "the name of a part")
    for name, kind in zip(names, kinds, strict=True):
        if kind != kinds[0]:
            raise MismatchError(
                f"parts must be of one kind: '{names[0]}' is {_KINDS[kinds[0]]}, "
                f"'{name}' is {_KINDS[kind]}"
            )
    if kinds[0] == "adapters":
        return _open_adapters(recipe, parts, paths, names, absent)
    if recipe.backbone is not None:
        raise SettingError("backbone is for adapters")
    opened = zip(parts, paths, names, strict=True)
    sources = tuple(_source(part, path, name) for part, path, name in opened)
    return OpenedParts(kinds[0], names, tuple(paths), sources=sources)


def _content(part: PartSpec) -> Any:
    """What a part is: a path as it is written, slices, or an object."""
    if isinstance(part, LoadedPart):
        return part.content
    return part.path if part.slices is None else _stack(part)


def _stack(spec: PartSpec | StackSpec) -> Stack:
    from weft.merging.checkpoints.layer_stack import Slice, Stack

    return Stack(tuple(Slice(locate(one.path), *one.layers) for one in spec.slices or ()))


def open_base(recipe: MergeRecipe) -> TensorSource | None:
    """The base of a merge: a checkpoint, tensors, or the mean of several checkpoints."""
    base = recipe.base
    if base is None:
        return None
    if isinstance(base, MeanOf):
        from weft.merging.algebra import mean

        return mean([locate(path) for path in base.mean_of])
    if isinstance(base, StackSpec):
        from weft.merging.checkpoints.layer_stack import open_stack

        return open_stack(_stack(base), "base")
    if isinstance(base, LoadedBase):
        content = base.content
        return Memory("base", content) if isinstance(content, Mapping) else content
    from weft.merging.checkpoints.checkpoint import open_checkpoint

    return open_checkpoint(locate(base), "base")


_KINDS = {"adapters": "an adapter", "checkpoints": "a checkpoint", "tensors": "tensors in memory"}


def _kind(part: Any, path: Path | None) -> Kind:
    if hasattr(part, "slices"):
        return "checkpoints"
    if path is None:
        return "adapters" if isinstance(part, Adapter) else "tensors"
    return kind_of(path)


def kind_of(path: Path) -> Kind:
    """Whether a path is an adapter's or a checkpoint's; a `WeftError` where it can be neither."""
    if not path.exists():
        raise NotFoundError(f"{path} is not an adapter folder or a checkpoint: it does not exist")
    if path.is_file() and path.name == ADAPTER_WEIGHTS:
        raise SettingError(f"{path} is an adapter's file: name its folder, {path.parent}")
    if is_adapter(path):
        return "adapters"
    from weft.artifacts.pickles import pickled_weights
    from weft.merging.checkpoints.checkpoint import inner_advice

    if path.is_dir() and not any(path.glob("*.safetensors*")) and not pickled_weights(path, ("",)):
        advice = inner_advice(path) or ": it holds no weights"
        raise NotFoundError(f"{path} is not an adapter folder or a checkpoint{advice}")
    return "checkpoints"


def _streams(part: Any) -> bool:
    return hasattr(part, "specs") and hasattr(part, "read")


def _open_adapters(
    recipe: MergeRecipe,
    parts: Sequence[Any],
    paths: Sequence[Path | None],
    names: tuple[str, ...],
    absent: Sequence[bool],
) -> OpenedParts:
    gone = tuple(absent) or (False,) * len(parts)
    rows = [k for k, out in enumerate(gone) if not out]
    unnamed = recipe.base if isinstance(recipe.base, str) else None
    adapters = _adapters(
        [parts[k] for k in rows], [paths[k] for k in rows], recipe.backbone or unnamed
    )
    opened = _alike(adapters, [names[k] for k in rows], recipe.backbone, recipe.union)
    left = iter(opened.adapters)
    every = tuple(opened.adapters[0] if out else next(left) for out in gone)
    return replace(opened, labels=names, paths=tuple(paths), adapters=every, absent=gone)


def _adapters(
    parts: Sequence[Any], paths: Sequence[Path | None], backbone: str | None
) -> tuple[Adapter, ...]:
    """Adapters as they are, and those of folders, whose factors are read when they are used."""
    from weft.adapters.peft_format import load_adapters

    folders = [path for path in paths if path is not None]
    loaded = iter(load_adapters(folders, backbone=backbone))
    return tuple(part if isinstance(part, Adapter) else next(loaded) for part in parts)


def _alike(
    opened: Sequence[Adapter], names: Sequence[str], backbone: str | None, union: bool
) -> OpenedParts:
    """The adapters with one backbone, and one name for each module."""
    from weft.merging.lora.module_names import align
    from weft.merging.lora.shared_backbone import share_backbone

    adapters = share_backbone(opened, names, backbone)
    # Adapters of different backbones are refused with better words, later.
    alike = len({one.fingerprint for one in adapters}) == 1
    aligned = align(adapters, names, union=union or not alike)
    renamed = aligned.adapters if alike else tuple(adapters)
    notes = aligned.notes if alike else ()
    return OpenedParts("adapters", tuple(names), (), adapters=renamed, notes=notes)


def _source(part: Any, path: Path | None, label: str) -> TensorSource:
    from weft.merging.checkpoints.checkpoint import open_checkpoint
    from weft.merging.checkpoints.layer_stack import open_stack
    from weft.merging.checkpoints.views import Renamed

    if path is not None:
        return open_checkpoint(path, label)
    if hasattr(part, "slices"):
        return open_stack(part, label)
    if isinstance(part, Mapping):
        return Memory(label, part)
    if not _streams(part):
        raise SettingError(
            "a part is a path, an adapter or a mapping of names to tensors, "
            f"not a {type(part).__name__}"
        )
    return Renamed(label, part)


def _labels(
    parts: Sequence[Any], paths: Sequence[Path | None], names: Sequence[str | None]
) -> tuple[str, ...]:
    """Names as they are stated; else the end of a path that no other part has, or a number."""
    # As it is written: a link is named for what it is called, not for where it leads.
    tails = [() if path is None else path.absolute().parts for path in paths]
    labels: list[str] = []
    for k, name in enumerate(names):
        usual = _source_label(parts[k]) or _tail(tails, k) or f"part {k + 1}"
        labels.append(usual if name is None else name)
    stated = [name for name in names if name is not None]
    for name in stated:
        if stated.count(name) > 1:
            raise SettingError(f"two parts are named '{name}'")
    return tuple(
        label if labels.count(label) == 1 or names[k] is not None else f"{label} ({k + 1})"
        for k, label in enumerate(labels)
    )


def _source_label(part: Any) -> str | None:
    label = getattr(part, "label", None)
    return label if isinstance(label, str) else None


def _tail(tails: Sequence[tuple[str, ...]], k: int) -> str:
    tail, others = tails[k], [one for j, one in enumerate(tails) if j != k]
    for length in range(1, len(tail)):
        end = tail[-length:]
        if not any(one[-length:] == end for one in others):
            return "/".join(end)
    return "/".join(tail[-1:])
