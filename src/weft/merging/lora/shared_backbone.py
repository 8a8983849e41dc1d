"""Adapters of one backbone, however each of them names it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from weft.adapters import Adapter
from weft.backbones.load import fingerprint_of, local_backbone
from weft.backbones.names import StatedBackbone, in_words, one_backbone, plain_name, twin_of
from weft.errors import MismatchError, notice


def share_backbone(
    adapters: Sequence[Adapter], labels: Sequence[str], stated: str | None = None
) -> tuple[Adapter, ...]:
    """The adapters, all with one backbone in their manifests.

    Names that mean the same count as the same, and weights of equal hash whatever their names.
    `stated` is the backbone that all belong to, whatever they name; a notice then tells which one
    each had named. Adapters of different backbones are a `WeftError` that names both.
    """
    identities = [StatedBackbone.of(adapter.manifest["backbone"]) for adapter in adapters]
    if stated is not None:
        return _put(adapters, _stated(adapters, labels, identities, stated))
    for label, other in zip(labels[1:], identities[1:], strict=True):
        if not one_backbone(identities[0], other):
            raise MismatchError(_difference(labels[0], identities[0], label, other))
    if len({adapter.fingerprint for adapter in adapters}) == 1:
        return tuple(adapters)
    known = [
        a.manifest["backbone"]
        for a, one in zip(adapters, identities, strict=True)
        if one.fingerprint
    ]
    return _put(adapters, known[0] if known else adapters[0].manifest["backbone"])


def _put(adapters: Sequence[Adapter], backbone: dict[str, Any]) -> tuple[Adapter, ...]:
    return tuple(put_backbone(one, backbone) for one in adapters)


def put_backbone(adapter: Adapter, backbone: Mapping[str, Any]) -> Adapter:
    """The adapter with these entries for its backbone in its manifest."""
    stated = {**adapter.manifest["backbone"], **backbone}
    out = replace(adapter, manifest={**adapter.manifest, "backbone": stated})
    if "weights_hash" in adapter.__dict__:  # of the same weights, computed once
        out.__dict__["weights_hash"] = adapter.weights_hash
    return out


def _stated(
    adapters: Sequence[Adapter],
    labels: Sequence[str],
    identities: Sequence[StatedBackbone],
    name: str,
) -> dict[str, Any]:
    """The backbone of that name, with its hash where it is here or an adapter of it has one."""
    folder = local_backbone(name)
    mark = None if folder is None else fingerprint_of(folder)
    for one in identities:
        if mark is None and one.fingerprint and one.plain_name == plain_name(name):
            mark = one.fingerprint
    for label, one in zip(labels, identities, strict=True):
        differs = one.fingerprint not in (None, mark) if mark else one.fingerprint is not None
        if differs or one.plain_name != plain_name(name):
            named, _ = in_words(one, StatedBackbone(name, mark))
            notice(f"{label} names the backbone {named}: taken for {name}, as you say (--backbone)")
    return {"name": name, "fingerprint": mark or f"name:{name}"}


def check_one_backbone(label: str, first: Adapter, other_label: str, other: Adapter) -> None:
    """A `WeftError` that names both backbones unless two adapters have one fingerprint."""
    if other.fingerprint != first.fingerprint:
        one, another = (StatedBackbone.of(a.manifest["backbone"]) for a in (first, other))
        raise MismatchError(_difference(label, one, other_label, another))


def _difference(label: str, one: StatedBackbone, other_label: str, other: StatedBackbone) -> str:
    first, second = in_words(one, other)
    twin = twin_of(one, other)
    if twin is not None:
        remedy = (
            f"{twin} is the other one quantised; to merge what was trained on either, name the "
            "model that the result is for (--backbone)"
        )
    else:
        remedy = "if these are one model, name it (--backbone)"
    return f"{label} belongs to backbone {first}, {other_label} to {second}; {remedy}"
