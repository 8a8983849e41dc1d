"""Which of several rows to serve: the cheapest that no other beats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations

from weft.errors import SettingError
from weft.evaluation.compare import Comparison, Runs, compare_table, holm
from weft.evaluation.result import Result


@dataclass(frozen=True)
class Selection:
    """The row to serve out of several, and what was tested for it.

    `decided` is False where the row is only the cheapest: no other row beats it, and it does not
    beat all of them.
    """

    row: str
    metric: str
    users: int
    decided: bool
    beaten: dict[str, tuple[str, ...]]  # row -> the rows that beat it, cheapest first
    versus: dict[str, Comparison]  # the chosen row minus each other, Holm-corrected over all pairs


def select_row(results: Mapping[str, Runs], metric: str) -> Selection:
    """The first of `results`, which are in order of cost, that no other row beats.

    A row beats another if the paired t-test over users on `metric` is a `gain` (p below
    .05 after Holm's correction over all pairs of rows). The best row in the mean can't be beaten,
    so there always is one; where rows have unlike numbers of seeds, and tests could go round in a
    circle, it is the row that beats most. Unlike protocols are a `MismatchError`.
    """
    if not results:
        raise SettingError("no rows to choose from")
    names = list(results)
    pairs = list(combinations(names, 2))
    tested = [
        compare_table({row: results[row], other: results[other]}, other, [metric])[row][0]
        for row, other in pairs
    ]
    corrected = holm([one.p_t for one in tested])
    comparisons: dict[tuple[str, str], Comparison] = {}
    for (row, other), one, p in zip(pairs, tested, corrected, strict=True):
        comparisons[row, other] = replace(one, p_holm=p)
        comparisons[other, row] = _reversed(comparisons[row, other])
    beaten = {
        row: tuple(o for o in names if o != row and comparisons[o, row].verdict == "gain")
        for row in names
    }
    left = [row for row in names if not beaten[row]] or [_most_wins(names, beaten)]
    row = left[0]
    versus = {other: comparisons[row, other] for other in names if other != row}
    return Selection(
        row=row,
        metric=metric,
        users=_users(results[row]),
        decided=row != names[0] or len(left) == 1,
        beaten=beaten,
        versus=versus,
    )


def _most_wins(names: list[str], beaten: dict[str, tuple[str, ...]]) -> str:
    return max(names, key=lambda row: sum(row in others for others in beaten.values()))


def _reversed(one: Comparison) -> Comparison:
    return replace(one, a=one.b, b=one.a, difference=-one.difference, low=-one.high, high=-one.low)


def _users(runs: Runs) -> int:
    return (runs if isinstance(runs, Result) else runs[0]).protocol.users
