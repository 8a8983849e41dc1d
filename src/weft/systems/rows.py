"""What rows of a study are called, and that no two of them are called alike."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from weft.errors import WeftError
from weft.systems.measured import Measured
from weft.systems.recipe import Merging

LONGEST = 200  # bytes of a row's name as a folder's; file systems take 255, and more is added


def method_details(method: str | Mapping[str, Any], inner: bool = False) -> list[str]:
    """The options that a method's block sets, those of the methods that follow it too."""
    if isinstance(method, str):
        return []
    name = f"{method['name']} " if inner else ""
    own = [f"{name}{key} {value}" for key, value in method.items() if key not in ("name", "then")]
    return own + method_details(method.get("then", ""), inner=True)


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


def check_rows(measured: Iterable[Measured]) -> None:
    """A `WeftError` where two rows of a target have one name, or folders that some file system
    takes for one, or a name is no folder's at all."""
    names: set[tuple[str, str]] = set()
    places: dict[tuple[str, str], tuple[str, str]] = {}
    targets: dict[str, str] = {}
    for one in measured:
        other = targets.setdefault(_folded(one.target), one.target)
        if other != one.target:
            raise WeftError(
                f"the domains '{other}' and '{one.target}' would share the folder "
                f"results/{one.target} on some file systems: give one another name"
            )
        if (one.target, one.row) in names:
            raise WeftError(
                f"two rows of '{one.target}' would be called '{one.row}': leave one of them out of "
                "the recipe, or give it another name"
            )
        names.add((one.target, one.row))
        for folder in one.folders:
            _check_folder_name(one, folder)
            place = (one.target, _folded(folder))
            row = places.setdefault(place, (one.row, folder))[0]
            if row != one.row:
                raise WeftError(
                    f"the rows '{row}' and '{one.row}' of '{one.target}' would share the folder "
                    f"results/{one.target}/{folder}: give one of them another name"
                )


def _check_folder_name(one: Measured, folder: str) -> None:
    if not any(letter.isalnum() for letter in one.name):
        raise WeftError(
            f"the row '{one.row}' of '{one.target}' has no letter or digit in its name, so it "
            "can't have a folder: give it another name"
        )
    if len(folder.encode()) > LONGEST:
        raise WeftError(
            f"the row '{one.row}' of '{one.target}' has a name too long for a folder "
            f"({len(folder.encode())} bytes, {LONGEST} at most): give it a shorter one"
        )


def _folded(name: str) -> str:
    """A name as the file system that tells fewest apart sees it."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
