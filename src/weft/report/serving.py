"""Which row to serve, in a reader's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from weft.evaluation.compare import Runs
from weft.evaluation.selection import Selection, select_row
from weft.report.format import metric_label
from weft.report.model import Compared, RowWarning, ServingChoice

FEW_USERS = 200
_SAME_USERS = (
    "It was chosen on the same test users that it is measured on, so its own number is a little "
    "too good."
)
_NO_FOLDER = "The run has no recommender folder of it."


@dataclass(frozen=True, kw_only=True)
class RowInfo:
    """What is known of a row beside its results.

    `about` is a few words on what it is (how it was trained, what it controls for). `cost` is its
    place in the order of cost, None for a row that is not meant to be served. `folder` is the name of its
    recommender's folder, None where there is none. A row with a warning that `spoils` is never chosen.
    """

    about: str = ""
    cost: int | None = None
    folder: str | None = None
    warnings: tuple[RowWarning, ...] = ()


def choose_serving(
    target: str, results: Mapping[str, Runs], info: Mapping[str, RowInfo], metric: str
) -> ServingChoice:
    """The cheapest of the rows with a cost that no other row beats, and why.

    Rows of one cost stay in the table's order. A row with a warning that `spoils` takes no part.
    """
    costs = {row: one.cost for row, one in info.items() if one.cost is not None}
    order = sorted((row for row in results if row in costs), key=lambda row: costs[row])
    spoilt = [row for row in order if any(one.spoils for one in info[row].warnings)]
    left = {row: results[row] for row in order if row not in spoilt}
    if not left:
        reason = "Every row that could be served has a warning that rules it out."
        return ServingChoice(
            target=target, row=None, folder=None, reason=reason, decided=False, metric=metric,
            users=0, left_out=spoilt,
        )  # fmt: skip
    chosen = select_row(left, metric)
    folder = info[chosen.row].folder
    sentences = [_reason(chosen, list(left))]
    if spoilt:
        sentences.append(f"Left out because of their warnings: {_listed(spoilt)}.")
    if len(left) > 1:
        sentences.append(_SAME_USERS)
    if folder is None:
        sentences.append(_NO_FOLDER)
    return ServingChoice(
        target=target,
        row=chosen.row,
        folder=folder,
        reason=" ".join(sentences),
        decided=chosen.decided,
        metric=metric,
        users=chosen.users,
        compared=[
            Compared(
                row=row, difference=one.difference, low=one.low, high=one.high, p_holm=one.p_holm
            )
            for row, one in chosen.versus.items()
        ],
        left_out=spoilt,
    )


def _named(row: str) -> str:
    return f"'{row}'" if "," in row else row


def _reason(chosen: Selection, order: Sequence[str]) -> str:
    row, metric = _named(chosen.row), metric_label(chosen.metric)
    if len(order) == 1:
        return f"{row} is the only row that can be served."
    if not chosen.decided:
        return (
            f"Undecided: on {metric}, over {chosen.users:,} users, no row is clearly better than "
            f"{row}, which costs least. So serve {row}."
        )
    place = order.index(chosen.row)
    cheaper, dearer = order[:place], order[place + 1 :]
    better = [one for one in cheaper if chosen.versus[one].verdict == "gain"]
    words = []
    if better:
        words.append(f"{row} is clearly better on {metric} than {_listed(better)}")
    for one in cheaper:
        if one not in better:
            other = chosen.beaten[one][0]
            words.append(
                f"{_named(one)} costs less, but {_named(other)} is clearly better than it on {metric}"
            )
    if not cheaper:
        words.append(f"{row} costs least, and every other row is beaten on {metric}")
    elif dearer:
        words.append(f"no row that costs more is clearly better than {row}")
    return f"{'; '.join(words)}."


def few_users(users: int) -> list[str]:
    """A sentence where so few users are measured that only large differences show."""
    if users >= FEW_USERS:
        return []
    return [f"Only {users:,} test user{'s' * (users != 1)}: small differences don't show."]


def _listed(rows: Sequence[str]) -> str:
    """`a, 'b, longer' and c`."""
    names = [_named(row) for row in rows]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
