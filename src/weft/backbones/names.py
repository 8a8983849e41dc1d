"""Whether two stated backbones are one model: by their weights' hashes where both are known, else
by names that mean the same."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.artifacts.hashing import short_hashes
from weft.backbones.load import KNOWN, fingerprint_of, local_backbone

_SNAPSHOT = re.compile(r"(?:^|/)models--([^/]+)/snapshots/[^/]+$")
_HUB = re.compile(r"^https?://(?:huggingface\.co|hf\.co)/")
_TWIN = re.compile(r"-(?:unsloth-)?(?:bnb-)?(?:[48]bit|int[48]|nf4)$|-(?:awq|gptq\w*|fp8)$", re.I)
_BY_NAME = "name:"  # how a fingerprint begins that is only a name


@dataclass(frozen=True)
class StatedBackbone:
    """An adapter's backbone as its manifest has it; without a fingerprint, only the name is known."""

    name: str
    fingerprint: str | None

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> StatedBackbone:
        """As it stands in a manifest under `backbone`."""
        mark = str(manifest["fingerprint"])
        return cls(str(manifest.get("name")), None if mark.startswith(_BY_NAME) else mark)

    @property
    def plain_name(self) -> str:
        """See the function of this name."""
        return plain_name(self.name)

    def known(self) -> StatedBackbone:
        """With the hash of the weights that its name leads to on this machine, where it does."""
        if self.fingerprint is not None:
            return self
        folder = local_backbone(self.name)
        return self if folder is None else StatedBackbone(self.name, fingerprint_of(folder))


def plain_name(name: str) -> str:
    """A name that is the same for every way to write it: a folder's real path; `owner/name` for a
    folder in the hub's cache, an address on the hub or a short name."""
    text = _HUB.sub("", name.strip()).rstrip("/") or name
    text = KNOWN[text].hub if text in KNOWN else text
    path = Path(text).expanduser()
    there = path.is_dir()
    text = str(path.resolve()) if there else os.path.normpath(str(path))
    cached = _SNAPSHOT.search(text)
    return cached[1].replace("--", "/", 1) if cached else text


def one_backbone(one: StatedBackbone, other: StatedBackbone) -> bool:
    """Whether both are one model, as far as this machine knows without the network."""
    if one.fingerprint is not None and other.fingerprint is not None:
        return one.fingerprint == other.fingerprint
    same_name = one.plain_name == other.plain_name
    if same_name and one.fingerprint == other.fingerprint:  # both by name
        return True
    one, other = one.known(), other.known()
    if one.fingerprint is not None and other.fingerprint is not None:
        return one.fingerprint == other.fingerprint
    return same_name


def in_words(one: StatedBackbone, other: StatedBackbone) -> tuple[str, str]:
    """Name and hash of two backbones, with hashes long enough to differ."""
    marks = [known.fingerprint or "" for known in (one, other)]
    shown = short_hashes(*marks) if all(marks) else tuple(m and short_hashes(m)[0] for m in marks)
    descriptions = [
        f"{stated.name} ({mark or 'known by name alone'})"
        for stated, mark in zip((one, other), shown, strict=True)
    ]
    return descriptions[0], descriptions[1]


def twin_of(one: StatedBackbone, other: StatedBackbone) -> str | None:
    """The one of two names that means the other model quantised, by an ending such as `-bnb-4bit`."""
    short, long = (stated.plain_name.rpartition("/")[2].lower() for stated in (one, other))
    for a, b, stated in ((short, long, one), (long, short, other)):
        if _TWIN.search(a) and _TWIN.sub("", a) == b:
            return stated.name
    return None
