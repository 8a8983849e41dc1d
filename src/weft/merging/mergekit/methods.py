"""Which of mergekit's methods weft has, by their names there."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from weft.merging.mergekit.forms import MergekitForm
from weft.merging.methods.registry import METHODS


@functools.cache
def mergekit_methods() -> Mapping[str, MergekitForm]:
    """`merge_method` -> how it is read, of all methods of weft."""
    return {
        name: form for method in METHODS.values() for name, form in method.mergekit_forms().items()
    }


# Of mergekit's repository, in no release of it.
UNKNOWN: Mapping[str, str] = dict.fromkeys(
    ("core_space", "cabs", "lrp", "zipit"), "is one of mergekit's that weft has not"
)
