"""The parts of a merge, whatever they were given as: all adapters, or all sets of full weights."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from weft.adapters import Adapter, load_adapters
from weft.errors import WeftError
from weft.merging.checkpoint import ADAPTER, inner_advice, open_checkpoint
from weft.merging.engine.source import Memory, Source
from weft.merging.lora.rows import weight_of
from weft.merging.placed import Renamed
from weft.merging.recipe import MeanOf, locate
from weft.merging.stacked import Stack, open_stack
from weft.names import check_name

Part = str | Path | Adapter | Mapping[str, Tensor] | Source | Stack
Base = str | Path | Mapping[str, Tensor] | Source | MeanOf | Stack | Sequence[str | Path]
Kind = Literal["adapters", "checkpoints", "tensors"]


@dataclass(frozen=True, eq=False)
class Parts:
    """K parts of one kind; `paths` has None for what came from memory."""

    kind: Kind
    labels: tuple[str, ...]
    paths: tuple[Path | None, ...]
    adapters: tuple[Adapter, ...] = ()
    sources: tuple[Source, ...] = ()
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
            rows = [weight_of(name) for one in self.adapters for name in one.tokens]
            every = [name for one in self.adapters for name in (*one.factors, *one.saved)]
            carried = {name for one in self.adapters for name in one.carried}
            return [name for name in dict.fromkeys([*every, *rows]) if name not in carried]
        return list(self.sources[0].specs)


def open_parts(
    parts: Sequence[Part],
    labels: Sequence[str | None] | None = None,
    *,
    union: bool = False,
    backbone: str | None = None,
    unnamed: str | None = None,
    absent: Sequence[bool] = (),
) -> Parts:
    """Open what was named; a part's label is its folder's name unless it is given one.

    Adapters are put under the names of the first one's modules; `union` allows that they have few
    in common (`weft.merging.lora.names.align`). They get one backbone, which `backbone` names where
    they don't agree (`weft.merging.lora.backbone.share_backbone`); `unnamed` is what the backbone is
    called for those that don't say. Adapters that are `absent` are neither read nor checked: the
    first one that takes part stands in for them, at weight 0.

    Raises `WeftError` for parts of two kinds, two parts with one label given, and what can't be
    read.
    """
    check_listed(parts)
    asked = list(labels) if labels is not None else [None] * len(parts)
    if len(asked) != len(parts):
        raise WeftError(f"{len(parts)} parts need {len(parts)} names, not {len(asked)}")
    paths = [locate(part) if isinstance(part, str | Path) else None for part in parts]
    kinds = [_kind(part, path) for part, path in zip(parts, paths, strict=True)]
    if "checkpoints" in kinds:  # formulas and open checkpoints may stand beside paths
        kinds = [
            "checkpoints" if _streams(part) else k for part, k in zip(parts, kinds, strict=True)
        ]
    names = _labels(parts, paths, asked)
    for name in names:
        check_name(name, "the name of a part")
    for name, kind in zip(names, kinds, strict=True):
        if kind != kinds[0]:
            raise WeftError(
                f"parts must be of one kind: '{names[0]}' is {_SAID[kinds[0]]}, "
                f"'{name}' is {_SAID[kind]}"
            )
    if kinds[0] == "adapters":
        gone = tuple(absent) or (False,) * len(parts)
        rows = [k for k, out in enumerate(gone) if not out]
        adapters = _adapters(
            [parts[k] for k in rows], [paths[k] for k in rows], backbone or unnamed
        )
        found = _opened_adapters(adapters, [names[k] for k in rows], backbone, union)
        left = iter(found.adapters)
        all_parts = tuple(found.adapters[0] if out else next(left) for out in gone)
        return replace(found, labels=names, paths=tuple(paths), adapters=all_parts, absent=gone)
    if backbone is not None:
        raise WeftError("backbone is for adapters")
    opened = zip(parts, paths, names, strict=True)
    sources = tuple(_source(part, path, name) for part, path, name in opened)
    return Parts(kinds[0], names, tuple(paths), sources=sources)


def check_listed(parts: Sequence[Part]) -> None:
    """A `WeftError` for what is no list of parts, or an empty one."""
    if isinstance(parts, str | Path | Mapping) or not parts:
        raise WeftError("a merge needs a list of at least one part")


def _opened_adapters(
    opened: Sequence[Adapter], names: Sequence[str], backbone: str | None, union: bool
) -> Parts:
    from weft.merging.lora.backbone import share_backbone
    from weft.merging.lora.names import align

    adapters = share_backbone(opened, names, backbone)
    # Adapters of different backbones are refused with better words, later.
    alike = len({one.fingerprint for one in adapters}) == 1
    aligned = align(adapters, names, union=union or not alike)
    found = aligned.adapters if alike else tuple(adapters)
    notes = aligned.notes if alike else ()
    return Parts("adapters", tuple(names), (), adapters=found, notes=notes)


def open_base(base: Base | None) -> Source | None:
    """The base of a merge: a checkpoint, tensors, or the mean of several checkpoints."""
    if base is None:
        return None
    if isinstance(base, str | Path):
        return open_checkpoint(locate(base), "base")
    if isinstance(base, Mapping):
        return Memory("base", base)
    if isinstance(base, MeanOf):
        return open_base(base.mean_of)
    if isinstance(base, Stack):
        return open_stack(base, "base")
    if isinstance(base, Sequence):
        from weft.merging.algebra import mean

        return mean([locate(path) for path in base])
    return base


_SAID = {"adapters": "an adapter", "checkpoints": "a checkpoint", "tensors": "tensors in memory"}


def _kind(part: Part, path: Path | None) -> Kind:
    if isinstance(part, Stack):
        return "checkpoints"
    if path is None:
        return "adapters" if isinstance(part, Adapter) else "tensors"
    return kind_of(path)


def kind_of(path: Path) -> Kind:
    """Whether a path is an adapter's or a checkpoint's; a `WeftError` where it can be neither."""
    if not path.exists():
        raise WeftError(f"{path} is not an adapter folder or a checkpoint: it does not exist")
    if path.is_file() and path.name == ADAPTER[1]:
        raise WeftError(f"{path} is an adapter's file: name its folder, {path.parent}")
    if os.path.lexists(path / ADAPTER[0]):
        return "adapters"
    empty = path.is_dir() and not any((*path.glob("*.safetensors*"), *path.glob("*.bin")))
    if empty and (advice := inner_advice(path)):
        raise WeftError(f"{path} is not an adapter folder or a checkpoint{advice}")
    return "checkpoints"


def _streams(part: Part) -> bool:
    return hasattr(part, "specs") and hasattr(part, "read")


def _adapters(
    parts: Sequence[Part], paths: Sequence[Path | None], backbone: str | None
) -> tuple[Adapter, ...]:
    """Adapters as they are, and those of folders, whose factors are read when they are used."""
    folders = [path for path in paths if path is not None]
    loaded = iter(load_adapters(folders, backbone=backbone))
    return tuple(part if isinstance(part, Adapter) else next(loaded) for part in parts)


def _source(part: Part, path: Path | None, label: str) -> Source:
    if path is not None:
        return open_checkpoint(path, label)
    if isinstance(part, Stack):
        return open_stack(part, label)
    if isinstance(part, Mapping):
        return Memory(label, part)
    return Renamed(label, _checked(part))


def _checked(part: Any) -> Source:
    if not _streams(part):
        raise WeftError(
            "a part is a path, an adapter or a mapping of names to tensors, "
            f"not a {type(part).__name__}"
        )
    source: Source = part
    return source


def _labels(
    parts: Sequence[Part], paths: Sequence[Path | None], asked: Sequence[str | None]
) -> tuple[str, ...]:
    """Names as they are given; else the end of a path that no other part has, or a number."""
    # As it is written: a link is named for what it is called, not for where it leads.
    tails = [() if path is None else path.absolute().parts for path in paths]
    found: list[str] = []
    for k, name in enumerate(asked):
        if name is not None:
            found.append(name)
            continue
        own = _own_label(parts[k]) or _tail(tails, k) or f"part {k + 1}"
        found.append(own)
    given = [name for name in asked if name is not None]
    for name in given:
        if given.count(name) > 1:
            raise WeftError(f"two parts are named '{name}'")
    return tuple(
        name if found.count(name) == 1 or asked[k] is not None else f"{name} ({k + 1})"
        for k, name in enumerate(found)
    )


def _own_label(part: Part) -> str | None:
    label = getattr(part, "label", None)
    return label if isinstance(label, str) else None


def _tail(tails: Sequence[tuple[str, ...]], k: int) -> str:
    own, others = tails[k], [tail for j, tail in enumerate(tails) if j != k]
    for length in range(1, len(own)):
        end = own[-length:]
        if not any(tail[-length:] == end for tail in others):
            return "/".join(end)
    return "/".join(own[-1:])
