"""Merges in words: names of their rows, and what makes each another than its method alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from weft.systems.recipe import Merging


def method_details(method: str | Mapping[str, Any], inner: bool = False) -> list[str]:
    """The options that a method's block sets, those of the methods that follow it too."""
    if isinstance(method, str):
        return []
    name = f"{method['name']} " if inner else ""
    options = [
        f"{name}{key} {value}" for key, value in method.items() if key not in ("name", "then")
    ]
    return options + method_details(method.get("then", ""), inner=True)


def merge_details(merging: Merging) -> list[str]:
    """Whatever makes a merge other than one of its method with nothing set: options, space,
    weights, rank."""
    details = method_details(merging.method)
    if merging.space != "delta":
        details.append(f"{merging.space} space")
    details += weight_words(merging)
    return details if merging.rank is None else [*details, f"rank {merging.rank}"]


def weight_words(merging: Merging) -> list[str]:
    """The weights where they are not uniform and the title does not say them."""
    if isinstance(merging.weights, tuple):
        return ["weights " + " ".join(f"{weight!r}" for weight in merging.weights)]
    if merging.weights in ("uniform", merging.title):
        return []
    return [f"weights by {merging.weights}"]


def merge_words(merging: Merging) -> str:
    """`delta space`, or with its method: `ties, density 0.3, delta space, rank 16`."""
    words = [] if merging.title == "linear" else [merging.title]
    words += [*method_details(merging.method), f"{merging.space} space", *weight_words(merging)]
    return ", ".join(words if merging.rank is None else [*words, f"rank {merging.rank}"])


def merge_names(merges: Sequence[Merging]) -> list[str]:
    """A name for each of several merges: its title, and where others have that title too,
    whatever it sets: `ties (density 0.3, weights 0.7 0.3)`."""
    titles = [one.title for one in merges]
    return [
        f"{one.title} ({', '.join(details)})"
        if titles.count(one.title) > 1 and (details := merge_details(one))
        else one.title
        for one in merges
    ]
