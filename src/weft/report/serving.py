"""Which row to serve, in a reader's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from weft.evaluation.compare import Runs
from weft.evaluation.selection import Selection, select_row
from weft.report.format import metric_label
from weft.report.model import Compared, RowWarning, ServingChoice

FEW_USERS = 200
_SAME_USERS = (
    "It was chosen on the test users that it is measured on, which flatters its own number."
)
_NO_FOLDER = "The run keeps no folder of it to serve from."


def choose_serving(
    target: str,
    results: Mapping[str, Runs],
    costs: Mapping[str, int],
    folders: Mapping[str, str],
    warnings: Mapping[str, Sequence[RowWarning]],
    metric: str,
) -> ServingChoice:
    """The cheapest row of those with a cost that no other beats, and why.

    Rows of one cost stay in the table's order. A row with a warning that spoils it takes no part.
    """
    order = sorted((row for row in results if row in costs), key=lambda row: costs[row])
    spoilt = [row for row in order if any(one.spoils for one in warnings.get(row, []))]
    left = {row: results[row] for row in order if row not in spoilt}
    if not left:
        reason = "Every row that could be served has a warning beside it that spoils it."
        return ServingChoice(
            target=target, row=None, folder=None, reason=reason, decided=False, metric=metric,
            users=0, left_out=spoilt,
        )  # fmt: skip
    chosen = select_row(left, metric)
    folder = folders.get(chosen.row)
    sentences = [_reason(chosen, list(left))]
    if spoilt:
        sentences.append(f"Left out for the warnings beside them: {_listed(spoilt)}.")
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
            f"Can't tell: on {metric}, over {chosen.users:,} users, no row is clearly better than "
            f"{row}. Take the cheapest, which it is."
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
                f"{_named(one)} costs less, but {_named(other)} is clearly better on {metric} than it"
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
