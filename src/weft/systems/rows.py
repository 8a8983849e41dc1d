"""The rows of a study's tables: what each is, what it costs, and that no two are called alike."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from weft.errors import SettingError
from weft.names import check_name
from weft.systems.stages.evaluation import EvaluateBaseline, EvaluationStage
from weft.systems.stages.weights import WeightsStage

LONGEST = 200  # bytes of a row's name as a folder's; file systems take 255, and more is added

WeightRows = Mapping[str, tuple[str, WeightsStage]]
"""Row name -> (what it is, the stage of its weights)."""


class Cost(IntEnum):
    """What a row costs to have and to serve: the order in which simpler rows come first.

    A system gives one to each row that somebody would serve; a row that is there to answer a
    question (a control, an ablation) has none.
    """

    COUNTS = 0  # no model
    IDS = 1  # a small model of one domain's interactions, without a backbone
    BACKBONE = 2  # the backbone as it comes
    BRANCH = 3  # one training
    LONGER = 4  # one training that takes the steps of several, or needs other domains' logs
    MERGE = 5  # several trainings, one set of weights
    INTEGRATION = 6  # several sets of weights at every request


@dataclass(frozen=True)
class StudyRow:
    """One row of one target: what it is, its weights, and its evaluation for each seed."""

    target: str
    row: str
    about: str
    weights: WeightsStage | None
    evaluations: list[EvaluationStage]  # the recipe's seed first, then `more_seeds`
    more_seeds: tuple[int, ...] = ()
    published: bool = False  # its weights become a recommender folder
    cost: Cost | None = None  # of a row that somebody would serve; None: it answers a question

    @property
    def name(self) -> str:
        """The row's name as a folder's."""
        return re.sub(r"[^\w.-]+", "-", self.row).strip("-")

    @property
    def folders(self) -> list[str]:
        """Under `results/<target>`: one for each evaluation."""
        return [self.name, *(f"{self.name}-seed-{seed}" for seed in self.more_seeds)]

    @property
    def baseline(self) -> EvaluateBaseline | None:
        """Its evaluation where the row is a baseline, which can be published without weights."""
        first = self.evaluations[0]
        return first if self.cost is not None and isinstance(first, EvaluateBaseline) else None

    @property
    def savable(self) -> bool:
        """Whether it can become a recommender's folder."""
        return self.weights is not None or self.baseline is not None


def check_rows(rows: Iterable[StudyRow]) -> None:
    """A `SettingError` where two rows of a target have one name, or folders that some file system
    takes for one, or a name is no folder's at all."""
    names: set[tuple[str, str]] = set()
    places: dict[tuple[str, str], tuple[str, str]] = {}
    targets: dict[str, str] = {}
    for one in rows:
        other = targets.setdefault(_folded(one.target), one.target)
        if other != one.target:
            raise SettingError(
                f"the domains '{other}' and '{one.target}' would share the folder "
                f"results/{one.target} on some file systems: give one another name"
            )
        if (one.target, one.row) in names:
            raise SettingError(
                f"two rows of '{one.target}' would be called '{one.row}': leave one of them out of "
                "the recipe, or give it another name"
            )
        names.add((one.target, one.row))
        for folder in one.folders:
            _check_folder_name(one, folder)
        check_name(one.row, f"the name of a row of '{one.target}'")
        for folder in one.folders:
            place = (one.target, _folded(folder))
            other_row = places.setdefault(place, (one.row, folder))[0]
            if other_row != one.row:
                raise SettingError(
                    f"the rows '{other_row}' and '{one.row}' of '{one.target}' would share the folder "
                    f"results/{one.target}/{folder}: give one of them another name"
                )


def _check_folder_name(one: StudyRow, folder: str) -> None:
    if not any(letter.isalnum() for letter in one.name):
        raise SettingError(
            f"the row '{one.row}' of '{one.target}' has no letter or digit in its name, so it "
            "can't have a folder: give it another name"
        )
    if len(folder.encode()) > LONGEST:
        raise SettingError(
            f"the row '{one.row}' of '{one.target}' has a name too long for a folder "
            f"({len(folder.encode())} bytes, {LONGEST} at most): give it a shorter one"
        )


def _folded(name: str) -> str:
    """A name as the file system sees it for which most names are one."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
